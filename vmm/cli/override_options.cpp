#include "vmm/cli/override_options.h"

#include "vmm/base/text.h"
#include "vmm/config/device_names.h"
#include "vmm/config/mac_address.h"

#include <algorithm>
#include <string_view>

namespace mayfly {
namespace {

/// An option whose values are ID=SOMETHING.
struct OverrideOption {
  std::string_view name;
  std::string_view example;
};

template <typename Override>
Result<std::vector<Override>> read_overrides(const OverrideOption& option, std::span<const std::string> values,
                                             std::string Override::* id, std::string Override::* other) {
  std::vector<Override> overrides;
  for (const std::string& value : values) {
    const std::size_t equals = value.find('=');
    if (equals == std::string::npos || equals + 1 == value.size())
      return fail(ErrorKind::InvalidArgument, "{} {}: give the device's id, \"=\" and what it gets, such as {}",
                  option.name, value, option.example);
    Override read;
    read.*id = value.substr(0, equals);
    read.*other = value.substr(equals + 1);
    if (!is_device_id(read.*id))
      return fail(ErrorKind::InvalidArgument, "{} {}: the id must be {}, not \"{}\"", option.name, value, kDeviceIdRule,
                  read.*id);
    if (std::ranges::find(overrides, read.*id, id) != overrides.end())
      return fail(ErrorKind::InvalidArgument, "{} {}: {} is named twice; name each device once", option.name, value,
                  read.*id);
    overrides.push_back(std::move(read));
  }
  return overrides;
}

/// "tap7,mac=06:00:AC:10:00:02" is a TAP and an address.
Status take_mac(NetworkOverride& override) {
  constexpr std::string_view kMac = ",mac=";
  const std::size_t at = override.host_dev_name.find(kMac);
  if (at == std::string::npos) return {};
  auto address = parse_mac_address(std::string_view{override.host_dev_name}.substr(at + kMac.size()));
  if (!address) return propagate(address, fmt::format("--tap {}={}", override.iface_id, override.host_dev_name));
  override.guest_mac = *address;
  override.host_dev_name.resize(at);
  return {};
}

}  // namespace

Result<std::vector<NetworkOverride>> read_tap_overrides(std::span<const std::string> values) {
  auto overrides =
      read_overrides({"--tap", "eth0=tap1"}, values, &NetworkOverride::iface_id, &NetworkOverride::host_dev_name);
  if (!overrides) return overrides;
  for (NetworkOverride& each : *overrides) {
    if (auto taken = take_mac(each); !taken) return propagate(taken);
    if (!is_interface_name(each.host_dev_name))
      return fail(ErrorKind::InvalidArgument, "--tap {}={}: after the \"=\" must be {}", each.iface_id,
                  each.host_dev_name, kInterfaceNameRule);
  }
  return overrides;
}

Result<std::vector<NetworkOverride>> read_children_taps(std::span<const std::string> values) {
  std::vector<NetworkOverride> taps;
  for (const std::string& value : values) {
    auto one = read_tap_overrides(std::span{&value, 1});
    if (!one) return one;
    taps.push_back(std::move(one->front()));
  }
  return taps;
}

Result<std::vector<DriveOverride>> read_drive_overrides(std::span<const std::string> values,
                                                        std::span<const std::string> bases) {
  auto drives =
      read_overrides({"--drive", "rootfs=copy.ext4"}, values, &DriveOverride::drive_id, &DriveOverride::path_on_host);
  if (!drives) return drives;
  for (const std::string& value : bases) {
    auto base = read_overrides({"--base", "rootfs=rootfs.ext4"}, std::span{&value, 1}, &DriveOverride::drive_id,
                               &DriveOverride::path_on_host);
    if (!base) return propagate(base);
    const auto drive = std::ranges::find(*drives, base->front().drive_id, &DriveOverride::drive_id);
    if (drive == drives->end())
      return fail(ErrorKind::InvalidArgument, "--base {}: give the overlay over it as well, by --drive {}=PATH", value,
                  base->front().drive_id);
    drive->base_paths.push_back(std::move(base->front().path_on_host));
  }
  return drives;
}

Result<std::vector<FrozenDrive>> read_frozen_drives(std::span<const std::string> values) {
  return read_overrides({"--freeze", "rootfs=rootfs.frozen"}, values, &FrozenDrive::drive_id,
                        &FrozenDrive::path_on_host);
}

namespace {

/// The port and the path of a value. Errors name the option.
Result<ChannelConfig> read_channel(const std::string& value) {
  const std::size_t equals = std::min(value.find('='), value.size());
  const auto port = whole_number<std::uint16_t>(std::string_view{value}.substr(0, equals));
  ChannelConfig channel{.port = port.value_or(0), .uds_path = value.substr(std::min(equals + 1, value.size()))};
  if (is_channel(channel)) return channel;
  return fail(ErrorKind::InvalidArgument,
              "--channel {}: give a port from 1 to 65535 other than {}, \"=\" and {}, such as 1024=/run/agent.sock",
              value, kMetadataPort, kSocketPathRule);
}

template <typename Channel>
Status add_channel(std::vector<Channel>& channels, Channel channel, const std::string& value) {
  if (std::ranges::find(channels, channel.port, &Channel::port) != channels.end())
    return fail(ErrorKind::InvalidArgument, "--channel {}: {} is named twice; name each channel once", value,
                channel.port);
  channels.push_back(std::move(channel));
  return {};
}

}  // namespace

Result<std::vector<ChannelConfig>> read_channels(std::span<const std::string> values) {
  constexpr std::string_view kListen = ",listen";
  std::vector<ChannelConfig> channels;
  for (const std::string& value : values) {
    const bool listens = value.ends_with(kListen);
    auto channel = read_channel(listens ? value.substr(0, value.size() - kListen.size()) : value);
    if (!channel) return propagate(channel);
    channel->listen = listens;
    if (auto added = add_channel(channels, std::move(*channel), value); !added) return propagate(added);
  }
  return channels;
}

Result<std::vector<ChannelOverride>> read_channel_overrides(std::span<const std::string> values) {
  std::vector<ChannelOverride> channels;
  for (const std::string& value : values) {
    auto channel = read_channel(value);
    if (!channel) return propagate(channel);
    auto added = add_channel(channels, {.port = channel->port, .uds_path = std::move(channel->uds_path)}, value);
    if (!added) return propagate(added);
  }
  return channels;
}

}  // namespace mayfly
