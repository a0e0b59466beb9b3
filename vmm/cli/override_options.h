#pragma once

#include "vmm/base/error.h"
#include "vmm/config/configuration.h"

#include <span>
#include <string>
#include <vector>

/// The values of `mayfly restore`'s --tap and --drive, each of which may be given several times: ID=NAME.
///
///   --tap eth0=tap7 --drive rootfs=copy.ext4
namespace mayfly {

/// Errors (InvalidArgument) name the option, its value and the rule: no "=", no id, no TAP's name, an id twice.
[[nodiscard]] Result<std::vector<NetworkOverride>> read_tap_overrides(std::span<const std::string> values);
/// The same for ID=PATH.
[[nodiscard]] Result<std::vector<DriveOverride>> read_drive_overrides(std::span<const std::string> values);

}  // namespace mayfly
