#include "snapshot/snapshot.h"

#include <sys/random.h>

#include <fmt/format.h>

namespace mayfly {

Result<SnapshotId> make_snapshot_id() {
  SnapshotId id{};
  // getrandom(2): up to 256 bytes come whole and uninterrupted once the host's pool is ready.
  if (::getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size()))
    return fail_errno(ErrorKind::System, "cannot name a snapshot: the host gives no random numbers");
  return id;
}

std::string format_snapshot_id(const SnapshotId& id) {
  std::string text;
  for (const std::uint8_t byte : id) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace mayfly
