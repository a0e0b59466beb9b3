#include "snapshot/snapshot.h"

#include "vmm/base/printable.h"
#include "vmm/base/random.h"

#include <span>

namespace mayfly {

Result<SnapshotId> make_snapshot_id(const std::optional<SnapshotId>& base) {
  SnapshotId id{};
  if (auto filled = fill_with_random(std::as_writable_bytes(std::span{id}), "name a snapshot"); !filled)
    return propagate(filled);
  if (base && (id.back() & 1U) == (base->back() & 1U)) id.back() ^= 1U;
  return id;
}

std::string format_snapshot_id(const SnapshotId& id) { return hexadecimal_digits(std::as_bytes(std::span{id})); }

}  // namespace mayfly
