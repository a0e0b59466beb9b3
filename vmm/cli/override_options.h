#pragma once

#include "vmm/base/error.h"
#include "vmm/config/configuration.h"

#include <span>
#include <string>
#include <vector>

/// The values of `mayfly restore`'s --tap, --drive and --base, and of others like them, each of which may be given several times: ID=NAME.
///
///   --tap eth0=tap7 --drive rootfs=clone.overlay --base rootfs=rootfs.ext4
namespace mayfly {

/// Errors (InvalidArgument) name the option, its value and the rule: no "=", no id, no TAP's name, an id twice.
[[nodiscard]] Result<std::vector<NetworkOverride>> read_tap_overrides(std::span<const std::string> values);
/// Of `mayfly branch --tap`, in the order of its children: one id may be there several times. Errors: the same otherwise.
[[nodiscard]] Result<std::vector<NetworkOverride>> read_children_taps(std::span<const std::string> values);
/// The same for ID=PATH. `bases`: layers below those, several of one drive in their order, the lowest first. Error: a
/// base of a drive that `values` does not name.
[[nodiscard]] Result<std::vector<DriveOverride>> read_drive_overrides(std::span<const std::string> values,
                                                                      std::span<const std::string> bases = {});

/// Of `mayfly restore --channel`: PORT=PATH, each port once. Errors: the same.
[[nodiscard]] Result<std::vector<ChannelOverride>> read_channel_overrides(std::span<const std::string> values);
/// Of `mayfly run --channel`: PORT=PATH or PORT=PATH,listen, each port once. Errors: the same.
[[nodiscard]] Result<std::vector<ChannelConfig>> read_channels(std::span<const std::string> values);

/// Of `mayfly snapshot create --freeze`: ID=PATH. Errors: the same.
[[nodiscard]] Result<std::vector<FrozenDrive>> read_frozen_drives(std::span<const std::string> values);

}  // namespace mayfly
