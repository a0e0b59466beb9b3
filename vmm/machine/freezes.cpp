#include "vmm/machine/freezes.h"

#include "snapshot/file_pair.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <string>

namespace mayfly {
namespace {

DriveState& state_of(const FrozenDrive& frozen, Snapshot& snapshot) {
  const auto found = std::ranges::find(snapshot.drives, frozen.drive_id,
                                       [](const DriveState& state) { return state.config.drive_id; });
  ensure(found != snapshot.drives.end(), "a drive that the machine has not was frozen");
  return *found;
}

}  // namespace

Status check_freezes(const SnapshotCreateParams& params, const std::vector<DriveConfig>& drives) {
  for (const FrozenDrive& each : params.frozen_drives) {
    if (std::ranges::find(drives, each.drive_id, &DriveConfig::drive_id) == drives.end())
      return fail(ErrorKind::NotFound, "frozen_drives: there is no drive {}", each.drive_id);
    for (const std::string& file : {params.snapshot_path, params.mem_file_path})
      if (!file.empty() && paths_clash(file, each.path_on_host))
        return fail(ErrorKind::InvalidArgument, "frozen_drives: drive {} is to be at {}, which is the snapshot's {}",
                    each.drive_id, each.path_on_host, file);
  }
  return {};
}

Status prepare_freezes(Machine& machine, const SnapshotCreateParams& params, Snapshot& snapshot) {
  for (const FrozenDrive& each : params.frozen_drives) {
    TRY(machine.drive(each.drive_id).prepare_freeze(each.path_on_host));
    state_of(each, snapshot).config.path_on_host = each.path_on_host;
  }
  return {};
}

Status settle_freezes(Machine& machine, const SnapshotCreateParams& params, Snapshot& snapshot) {
  for (const FrozenDrive& each : params.frozen_drives) {
    BlockDevice& drive = machine.drive(each.drive_id);
    TRY(drive.settle_freeze());
    state_of(each, snapshot).device.image = drive.kept_image();
  }
  return {};
}

Status drop_freezes(Machine& machine, const SnapshotCreateParams& params) {
  Status all;
  for (const FrozenDrive& each : params.frozen_drives)
    if (auto dropped = machine.drive(each.drive_id).drop_freeze(); !dropped && all)
      all = propagate(dropped, "drive " + each.drive_id);
  return all;
}

}  // namespace mayfly
