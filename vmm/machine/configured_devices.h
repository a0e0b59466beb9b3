#pragma once

#include "vmm/machine/machine.h"
#include "vmm/machine/virtio_devices.h"

#include <span>
#include <string>
#include <string_view>
#include <vector>

/// The drives and network interfaces that are configured, with their files: opened, locked and attached when they are
/// configured, so that errors are reported at once, and kept until a machine has them.
///
///   ConfiguredDevices devices;
///   devices.put(drive);                 // an error leaves everything as it was
///   devices.lend(plan.devices);         // for a start, which may fail and be tried again
///   devices.started();                  // it did not: the machine has the files now
namespace mayfly {

/// For the loop's thread. Every error names the device by its id.
class ConfiguredDevices {
 public:
  /// Of a load, whose overlays are gone with it if it fails; of others they stay once they are configured.
  enum class Made { Stays, GoesUnlessStarted };
  explicit ConfiguredDevices(Made made = Made::Stays) noexcept : made_(made) {}

  /// Adds a device, or replaces the one of the same id. Errors: a file or TAP that cannot be opened, a second root
  /// device, a MAC address or TAP of another interface, more than kMaximumVirtioDevices.
  [[nodiscard]] Status put(DriveConfig drive, std::span<const FoundFile> found = {});
  [[nodiscard]] Status put(NetworkInterfaceConfig interface);
  /// Changes a device of a running machine. Errors: no such device, a file that cannot be opened or does not fit.
  [[nodiscard]] Status patch(const DrivePatch& patch, Machine& machine);
  [[nodiscard]] Status patch(const NetworkInterfacePatch& patch, Machine& machine);
  /// A drive's overlay was frozen as a layer, and another one is on top of it.
  void add_layer(std::string_view drive_id, const std::string& path);
  /// Whether interfaces can serve metadata so. Errors: it names none, or one that is not configured.
  [[nodiscard]] Status check(const MmdsConfig& mmds) const;

  /// The root device first, then in the order in which they came.
  [[nodiscard]] const std::vector<DriveConfig>& drives() const noexcept { return drives_; }
  [[nodiscard]] const std::vector<NetworkInterfaceConfig>& network_interfaces() const noexcept { return interfaces_; }
  /// Their part of the kernel's command line.
  [[nodiscard]] std::vector<std::string> kernel_arguments() const;

  /// Fills plans with second descriptors of the files. Error: the host gives no more.
  [[nodiscard]] Status lend(DevicePlans& plans) const;
  [[nodiscard]] bool empty() const noexcept { return drives_.empty() && interfaces_.empty(); }
  /// The machine has them: closes the first ones.
  void started() noexcept;

 private:
  [[nodiscard]] Status check_room() const;
  [[nodiscard]] Status check_alone(const NetworkInterfaceConfig& interface) const;

  Made made_;
  std::vector<DriveConfig> drives_;
  std::vector<DiskImage> images_;  // as drives_, until started()
  std::vector<NetworkInterfaceConfig> interfaces_;
  std::vector<Tap> taps_;  // as interfaces_, until started()
};

}  // namespace mayfly
