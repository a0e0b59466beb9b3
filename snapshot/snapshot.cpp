#include "snapshot/snapshot.h"

#include "vmm/base/random.h"

#include <span>

#include <fmt/format.h>

namespace mayfly {

Result<SnapshotId> make_snapshot_id() {
  SnapshotId id{};
  if (auto filled = fill_with_random(std::as_writable_bytes(std::span{id}), "name a snapshot"); !filled)
    return propagate(filled);
  return id;
}

std::string format_snapshot_id(const SnapshotId& id) {
  std::string text;
  for (const std::uint8_t byte : id) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace mayfly
