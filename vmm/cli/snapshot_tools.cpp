#include "vmm/cli/snapshot_tools.h"

#include "snapshot/describe.h"
#include "snapshot/state_file.h"
#include "snapshot/verify.h"
#include "vmm/cli/options.h"

#include <csignal>

#include <fmt/format.h>

namespace mayfly {
namespace {

int report(const Error& error) {
  std::fprintf(stderr, "mayfly: %s\n", error.message.c_str());
  return kExitError;
}

/// 0, or that of a reader who went away or of a full disk.
int print(const std::string& text, std::FILE* out) {
  return std::fputs(text.c_str(), out) == EOF || std::fflush(out) == EOF ? kExitError : 0;
}

std::string describe_pair(const VerifiedPair& pair) {
  const Snapshot& snapshot = pair.snapshot;
  std::string text = fmt::format(
      "snapshot {} by Mayfly {}: both files are whole and belong together\n"
      "vCPUs: {}, memory: {} MiB ({:.1f} of them data), drives: {}, network interfaces: {}\n",
      format_snapshot_id(snapshot.id), snapshot.producer, snapshot.machine.vcpu_count, snapshot.machine.mem_size_mib,
      static_cast<double>(pair.data_bytes) / static_cast<double>(kMiB), snapshot.drives.size(),
      snapshot.network_interfaces.size());
  if (pair.footer.kind == MemoryFileKind::Diff)
    text += fmt::format("the memory is a diff: merge it onto that of snapshot {} before a restore\n",
                        format_snapshot_id(pair.footer.base_id));
  if (auto fits = check_host_cpu(snapshot.host, this_host_cpu()); !fits)
    text += fmt::format("not for this host: {}\n", fits.error().message);
  return text;
}

}  // namespace

int run_describe(const std::string& state, std::FILE* out) {
  const auto snapshot = read_state_file(state);
  if (!snapshot) return report(snapshot.error());
  return print(describe_snapshot(*snapshot) + '\n', out);
}

int run_merge(const std::string& base, const std::string& diff, const std::string& output) {
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error like a full disk
  if (auto merged = merge_memory_files(base, diff, output); !merged) return report(merged.error());
  return 0;
}

int run_verify(const std::string& state, const std::string& memory, std::FILE* out) {
  const auto pair = verify_pair(state, memory);
  if (!pair) return report(pair.error());
  return print(describe_pair(*pair), out);
}

}  // namespace mayfly
