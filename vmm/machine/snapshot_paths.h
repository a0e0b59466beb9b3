#pragma once

#include "snapshot/snapshot.h"
#include "vmm/base/error.h"
#include "vmm/config/configuration.h"
#include "vmm/machine/virtio_devices.h"

#include <cstdint>
#include <string>
#include <vector>

/// Which files and TAPs of the host may be opened for a snapshot. A state file names images and TAPs, and whether to
/// write to an image; whoever made the file chose those names.
///
///   auto beside = check_named_paths(snapshot, params);   // before anything is opened
///   ... open the devices ...
///   if (auto same = check_same_files(*beside, devices); !same) return same;
///
/// With StatePaths::Trusted all of them are opened. With StatePaths::Named a drive's image, or layer, is opened only where an
/// override of the request names it, or where it is a regular file in the state file's directory or below it; a TAP
/// only where an override names it.
namespace mayfly {

/// An image that was found beside the state file.
struct ImageBeside {
  std::string drive_id;
  std::string path;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
};

/// Whether the drive's overlay becomes a layer below one that is made for this machine: the override of a drive in layers
/// names a file that is not there. An overlay over the base alone would lack what the guest's memory knows of.
[[nodiscard]] bool adds_layer(const DriveConfig& drive, const DriveOverride& replacement);

/// The images that no override names and that lie beside the state file; none with StatePaths::Trusted. Error
/// (Permission): one sentence that lists every other image and TAP of the state, and says which would be written to.
[[nodiscard]] Result<std::vector<ImageBeside>> check_named_paths(const Snapshot& snapshot,
                                                                 const SnapshotLoadParams& params);

/// Whether the images that were opened are those that were found: another user may be able to change the directory.
/// Error (State): one was replaced meanwhile.
[[nodiscard]] Status check_same_files(const std::vector<ImageBeside>& beside, const std::vector<DrivePlan>& opened);

}  // namespace mayfly
