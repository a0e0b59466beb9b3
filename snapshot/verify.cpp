#include "snapshot/verify.h"

#include "snapshot/file_pair.h"
#include "snapshot/state_file.h"

namespace mayfly {
namespace {

/// The memory of `id`, full or a diff.
Result<OwnedFd> open_memory(const std::string& path, const SnapshotId& id, std::uint64_t memory_size) {
  auto full = open_memory_file(path, id, memory_size);
  if (full) return full;
  for (const std::string& name : {path, new_name(path)}) {
    auto file = open_for_reading(name);
    if (!file) continue;
    const auto footer = read_footer(file->get(), name, memory_size);
    if (footer && footer->id == id) return file;
  }
  return full;
}

}  // namespace

Result<VerifiedPair> verify_pair(const std::string& state_path, const std::string& memory_path) {
  auto snapshot = read_state_file(state_path);
  if (!snapshot) return propagate(snapshot);
  const std::uint64_t memory_size = snapshot->machine.mem_size_mib * kMiB;
  auto file = open_memory(memory_path, snapshot->id, memory_size);
  if (!file) return propagate(file);
  auto footer = read_footer(file->get(), memory_path, memory_size);
  if (!footer) return propagate(footer);
  auto stretches = read_stretches(file->get(), memory_path, *footer);
  if (!stretches) return propagate(stretches);
  if (auto verified = verify_stretches(file->get(), memory_path, *stretches); !verified) return propagate(verified);
  VerifiedPair pair{.snapshot = std::move(*snapshot), .footer = *footer};
  for (const MemoryStretch& stretch : *stretches) pair.data_bytes += stretch.range.length;
  return pair;
}

}  // namespace mayfly
