#pragma once

#include "snapshot/snapshot.h"
#include "virtio/block/disk_image.h"
#include "vmm/base/error.h"
#include "vmm/config/configuration.h"

#include <vector>

/// Which files, TAPs and channels' sockets of the host may be opened for a snapshot. A state file names them, and whether to
/// write to an image; whoever made the file chose those names.
///
///   auto beside = check_named_paths(snapshot, params);   // before anything is opened
///   DiskImage::open(config, *beside);                    // another user may be able to change the directory meanwhile
///
/// With StatePaths::Trusted all of them are opened. With StatePaths::Named a drive's image, or layer, is opened only where an
/// override of the request names it, or where it is a regular file in the state file's directory or below it; a TAP or a
/// channel's socket only where an override names it.
namespace mayfly {

/// Whether the drive's overlay becomes a layer below one that is made for this machine: the override of a drive in layers
/// names a file that is not there. An overlay over the base alone would lack what the guest's memory knows of.
[[nodiscard]] bool adds_layer(const DriveConfig& drive, const DriveOverride& replacement);

/// The images that no override names and that lie beside the state file; none with StatePaths::Trusted. Error
/// (Permission): one sentence that lists every other image, TAP and channel's socket of the state, and says which images
/// would be written to.
[[nodiscard]] Result<std::vector<FoundFile>> check_named_paths(const Snapshot& snapshot,
                                                               const SnapshotLoadParams& params);

}  // namespace mayfly
