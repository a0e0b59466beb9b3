#include "vmm/machine/configured_devices.h"

#include "vmm/config/mac_address.h"

#include <algorithm>
#include <cstddef>

namespace mayfly {
namespace {

template <typename Vector>
auto at(Vector& vector, std::size_t index) {
  return vector.begin() + static_cast<std::ptrdiff_t>(index);
}

/// What a PATCH leaves of a limiter: see RateLimiter::update().
void merge(std::optional<RateLimiterConfig>& limiter, const RateLimiterConfig& patch) {
  if (!limiter) limiter.emplace();
  if (patch.bandwidth) limiter->bandwidth = patch.bandwidth;
  if (patch.ops) limiter->ops = patch.ops;
}

}  // namespace

Status ConfiguredDevices::check_room() const {
  const std::size_t count = drives_.size() + interfaces_.size();
  if (count < kMaximumVirtioDevices) return {};
  return fail(ErrorKind::TooLarge,
              "there are {} drives and network interfaces already, and a machine has no room for more", count);
}

// --- Drives ----------------------------------------------------------------------------------------------------------

Status ConfiguredDevices::put(DriveConfig drive, std::span<const FoundFile> found) {
  const std::string context = "drive " + drive.drive_id;
  const auto index =
      static_cast<std::size_t>(std::ranges::find(drives_, drive.drive_id, &DriveConfig::drive_id) - drives_.begin());
  const bool replaces = index < drives_.size();
  if (drive.is_root_device && !drives_.empty() && drives_.front().is_root_device && index != 0)
    return fail(ErrorKind::InvalidArgument,
                "{}: is_root_device is true, but drive {} is the root device already; a machine has one", context,
                drives_.front().drive_id);
  if (!replaces)
    if (auto room = check_room(); !room) return propagate(room, context);

  auto image = replaces ? DiskImage::open(drive, images_[index], found) : DiskImage::open(drive, found);
  if (!image) return propagate(image);
  if (replaces) {
    drives_.erase(at(drives_, index));
    images_.erase(at(images_, index));
  }
  // The root device is /dev/vda; a drive that is configured again keeps its place.
  const std::size_t place = drive.is_root_device ? 0 : std::min(index, drives_.size());
  drives_.insert(at(drives_, place), std::move(drive));
  if (made_ == Made::Stays) image->keep();
  images_.insert(at(images_, place), std::move(*image));
  return {};
}

Status ConfiguredDevices::patch(const DrivePatch& patch, Machine& machine) {
  const auto drive = std::ranges::find(drives_, patch.drive_id, &DriveConfig::drive_id);
  if (drive == drives_.end()) return fail(ErrorKind::NotFound, "there is no drive {}", patch.drive_id);
  BlockDevice& device = machine.drive(patch.drive_id);
  if (patch.path_on_host) {
    if (auto replaced = device.replace_path(*patch.path_on_host); !replaced) return replaced;
    drive->path_on_host = *patch.path_on_host;
  }
  if (patch.rate_limiter) {
    device.update_rate_limiter(*patch.rate_limiter);
    merge(drive->rate_limiter, *patch.rate_limiter);
  }
  return {};
}

void ConfiguredDevices::add_layer(std::string_view drive_id, const std::string& path) {
  const auto drive = std::ranges::find(drives_, drive_id, &DriveConfig::drive_id);
  ensure(drive != drives_.end(), "a drive that is not configured was frozen");
  drive->base_paths.push_back(path);
}

// --- Network interfaces ----------------------------------------------------------------------------------------------

Status ConfiguredDevices::check_alone(const NetworkInterfaceConfig& interface) const {
  for (const NetworkInterfaceConfig& other : interfaces_) {
    if (other.iface_id == interface.iface_id) continue;
    if (other.guest_mac == interface.guest_mac)
      return fail(ErrorKind::InvalidArgument, "guest_mac {} is that of network interface {}; give each its own",
                  format_mac_address(*interface.guest_mac), other.iface_id);
    if (!interface.host_dev_name.empty() && other.host_dev_name == interface.host_dev_name)
      return fail(ErrorKind::InvalidArgument, "host_dev_name {} is that of network interface {}; give each its own",
                  interface.host_dev_name, other.iface_id);
  }
  return {};
}

Status ConfiguredDevices::put(NetworkInterfaceConfig interface) {
  const std::string context = "network interface " + interface.iface_id;
  if (!interface.guest_mac) interface.guest_mac = derive_mac_address(interface.iface_id);
  if (auto alone = check_alone(interface); !alone) return propagate(alone, context);
  const auto same = std::ranges::find(interfaces_, interface.iface_id, &NetworkInterfaceConfig::iface_id);
  if (same != interfaces_.end() && same->host_dev_name == interface.host_dev_name) {
    *same = std::move(interface);  // its TAP is attached already
    return {};
  }
  if (same == interfaces_.end())
    if (auto room = check_room(); !room) return propagate(room, context);
  auto tap = interface.host_dev_name.empty() ? Tap::none() : Tap::open(interface.host_dev_name);
  if (!tap) return propagate(tap, context);
  if (same != interfaces_.end()) {
    taps_[static_cast<std::size_t>(same - interfaces_.begin())] = std::move(*tap);
    *same = std::move(interface);
  } else {
    interfaces_.push_back(std::move(interface));
    taps_.push_back(std::move(*tap));
  }
  return {};
}

Status ConfiguredDevices::patch(const NetworkInterfacePatch& patch, Machine& machine) {
  const auto interface = std::ranges::find(interfaces_, patch.iface_id, &NetworkInterfaceConfig::iface_id);
  if (interface == interfaces_.end())
    return fail(ErrorKind::NotFound, "there is no network interface {}", patch.iface_id);
  machine.network_interface(patch.iface_id).update_rate_limiters(patch);
  if (patch.rx_rate_limiter) merge(interface->rx_rate_limiter, *patch.rx_rate_limiter);
  if (patch.tx_rate_limiter) merge(interface->tx_rate_limiter, *patch.tx_rate_limiter);
  return {};
}

Status ConfiguredDevices::check(const MmdsConfig& mmds) const {
  if (mmds.network_interfaces.empty())
    return fail(ErrorKind::InvalidArgument,
                "network_interfaces is empty; name the network interfaces that are to serve metadata");
  for (const std::string& id : mmds.network_interfaces)
    if (std::ranges::find(interfaces_, id, &NetworkInterfaceConfig::iface_id) == interfaces_.end())
      return fail(ErrorKind::NotFound,
                  "network_interfaces: there is no network interface {}; configure it first (PUT "
                  "/network-interfaces/{})",
                  id, id);
  return {};
}

// --- The start -------------------------------------------------------------------------------------------------------

std::vector<std::string> ConfiguredDevices::kernel_arguments() const {
  return virtio_arguments(drives_, virtio_windows(drives_.size() + interfaces_.size()));
}

Status ConfiguredDevices::lend(DevicePlans& plans) const {
  for (std::size_t i = 0; i < drives_.size(); ++i) {
    auto image = images_[i].duplicate();
    if (!image) return propagate(image);
    plans.drives.push_back({.config = drives_[i], .image = std::move(*image)});
  }
  for (std::size_t i = 0; i < interfaces_.size(); ++i) {
    auto tap = taps_[i].duplicate();
    if (!tap) return propagate(tap, "network interface " + interfaces_[i].iface_id);
    plans.network_interfaces.push_back({.config = interfaces_[i], .tap = std::move(*tap)});
  }
  return {};
}

void ConfiguredDevices::started() noexcept {
  for (DiskImage& image : images_) image.keep();
  images_.clear();
  taps_.clear();
}

}  // namespace mayfly
