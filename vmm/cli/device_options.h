#pragma once

#include "vmm/base/error.h"
#include "vmm/config/configuration.h"

#include <span>
#include <string>
#include <vector>

/// The values of `mayfly run`'s --drive and --net, each of which may be given several times.
///
///   --drive rootfs.ext4,root --drive data.img,id=data,ro --net tap0,mac=06:00:ac:10:00:02
///
/// A value is a path (or a TAP's name) and then parts with commas between; a comma that belongs to the path is written
/// twice. A path that looks like another part ("id=x") is given as "path=id=x".
namespace mayfly {

/// PATH[,id=ID][,ro][,root][,direct][,cache=writeback][,discard]. Drives without an id become drive0, drive1 and so on,
/// by their place. Errors (InvalidArgument) name the option, its value and the part: unknown, twice, wrong value, no
/// path; an id of two drives; two root devices.
[[nodiscard]] Result<std::vector<DriveConfig>> read_drive_options(std::span<const std::string> values);

/// TAP[,id=ID][,mac=ADDRESS][,mtu=BYTES]. Interfaces without an id become eth0, eth1 and so on, by their place.
[[nodiscard]] Result<std::vector<NetworkInterfaceConfig>> read_net_options(std::span<const std::string> values);

}  // namespace mayfly
