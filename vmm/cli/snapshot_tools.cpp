#include "vmm/cli/snapshot_tools.h"

#include "snapshot/describe.h"
#include "snapshot/leftovers.h"
#include "snapshot/state_file.h"
#include "snapshot/verify.h"
#include "vmm/base/printable.h"
#include "vmm/cli/exit_codes.h"

#include <csignal>

#include <fmt/format.h>

namespace mayfly {
namespace {

double mib(std::uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(kMiB); }

std::string describe_pair(const VerifiedPair& pair) {
  const Snapshot& snapshot = pair.snapshot;
  const std::size_t layers = pair.layers.size();
  std::string text = fmt::format(
      "snapshot {} by Mayfly {}: {} files are whole and belong together\n"
      "vCPUs: {}, memory: {} MiB ({:.1f} of them data), drives: {}, network interfaces: {}\n",
      format_snapshot_id(snapshot.id), snapshot.producer, layers == 1 ? "both" : "all", snapshot.machine.vcpu_count,
      snapshot.machine.mem_size_mib, mib(pair.data_bytes), snapshot.drives.size(), snapshot.network_interfaces.size());
  for (std::size_t i = 0; i < layers && layers > 1; ++i)
    text += fmt::format("layer {} of {}: {}, snapshot {}, {:.1f} MiB of data, {:.1f} of them not hidden\n", i + 1,
                        layers, pair.layers[i].path, format_snapshot_id(pair.layers[i].footer.id),
                        mib(pair.layers[i].data_bytes), mib(pair.layers[i].shown_bytes));
  if (const MemoryFileFooter& lowest = pair.layers.front().footer; lowest.kind == MemoryFileKind::Diff)
    text += fmt::format("{} is a diff: a restore needs the memory file of snapshot {} before it, or merged with it\n",
                        layers == 1 ? "the memory" : pair.layers.front().path, format_snapshot_id(lowest.base_id));
  if (auto fits = check_host_cpu(snapshot.host, this_host_cpu()); !fits)
    text += fmt::format("not for this host: {}\n", fits.error().message);
  return text;
}

std::string describe_leftover(const Leftover& found, bool dry_run) {
  const double size = mib(found.bytes);
  switch (found.fate) {
    case Leftover::Fate::Removed:
      return fmt::format("{} {} ({:.1f} MiB): no state needs it\n", dry_run ? "would remove" : "removed", found.path,
                         size);
    case Leftover::Fate::Named:
      return fmt::format("{} {} its name: it is the memory of {}\n", dry_run ? "would give" : "gave", found.path,
                         found.reason);
    case Leftover::Fate::Busy:
      return fmt::format("left {} ({:.1f} MiB): a process is writing it\n", found.path, size);
    case Leftover::Fate::Uncertain:
      return fmt::format("left {} ({:.1f} MiB): {}\n", found.path, size, found.reason);
  }
  return {};
}

}  // namespace

int run_describe(const std::string& state, std::FILE* out) {
  const auto snapshot = read_state_file(state);
  if (!snapshot) return report(snapshot.error(), kExitError);
  return print(describe_snapshot(*snapshot) + '\n', out);
}

int run_describe(const std::string& state, std::span<const std::string> memory, std::FILE* out) {
  const auto snapshot = read_state_file(state);
  if (!snapshot) return report(snapshot.error(), kExitError);
  const auto chain = open_memory_chain(memory, {.top = snapshot->id,
                                                .memory_size = snapshot->machine.mem_size_mib * kMiB,
                                                .may_lack_base = true,
                                                .all_tables = true});
  if (!chain) return report(chain.error(), kExitError);
  return print(describe_snapshot(*snapshot, summarize(*chain)) + '\n', out);
}

int run_merge(const std::string& base, std::span<const std::string> diffs, const std::string& output) {
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error like a full disk
  if (auto merged = merge_memory_files(base, diffs, output); !merged) return report(merged.error(), kExitError);
  return 0;
}

int run_verify(const std::string& state, std::span<const std::string> memory, std::FILE* out) {
  const auto pair = verify_chain(state, memory);
  if (!pair) return report(pair.error(), kExitError);
  return print(printable_lines(describe_pair(*pair)), out);
}

int run_sweep(std::span<const std::string> directories, bool dry_run, std::FILE* out) {
  int printed = 0;
  const auto swept = sweep_leftovers(directories, dry_run, [&](const Leftover& found) {
    if (const int failed = print(printable_lines(describe_leftover(found, dry_run)), out); failed != 0)
      printed = failed;
  });
  if (!swept) return report(swept.error(), kExitError);
  return printed;
}

}  // namespace mayfly
