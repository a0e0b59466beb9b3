#pragma once

#include "snapshot/snapshot.h"
#include "vmm/base/error.h"
#include "vmm/config/configuration.h"
#include "vmm/machine/machine.h"

#include <vector>

/// The drives that a snapshot freezes (frozen_drives), from the request to the moment at which it counts: see DriveFreeze.
/// Controller::end_freezes() is their end.
namespace mayfly {

/// Errors: no such drive, a path that is one of the snapshot's.
[[nodiscard]] Status check_freezes(const SnapshotCreateParams& params, const std::vector<DriveConfig>& drives);
/// Drained: begins them, and has the snapshot name the frozen images. Loop's thread. Machine::sync_drives() takes them.
[[nodiscard]] Status prepare_freezes(Machine& machine, const SnapshotCreateParams& params, Snapshot& snapshot);
/// Gives them their names, and the snapshot what a load finds under those. Late, where the machine stands still until the
/// snapshot counts: a kill in between leaves drives under other names than their machine knows. Any thread.
[[nodiscard]] Status settle_freezes(Machine& machine, const SnapshotCreateParams& params, Snapshot& snapshot);
/// Undoes all of it. Any thread. Error: a drive's image has another name now.
[[nodiscard]] Status drop_freezes(Machine& machine, const SnapshotCreateParams& params);

}  // namespace mayfly
