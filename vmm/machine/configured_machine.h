#pragma once

#include "virtio/mmds/metadata_store.h"
#include "vmm/base/log.h"
#include "vmm/base/owned_fd.h"
#include "vmm/machine/boot.h"
#include "vmm/machine/command.h"
#include "vmm/machine/configured_channels.h"
#include "vmm/machine/configured_devices.h"

#include <cstddef>

/// What a user has configured, with the files that were opened for it: errors of a path are reported at once.
namespace mayfly {

/// For the loop's thread. A refused change changes nothing.
class ConfiguredMachine {
 public:
  /// `metadata_limit`: bytes of JSON. `console` is that of the process; serial_out_path replaces its output.
  ConfiguredMachine(Log& log, std::size_t metadata_limit, ConsoleOptions console)
      : metadata(metadata_limit), log_(log), console_(std::move(console)) {}

  [[nodiscard]] Status put(BootSource source);
  [[nodiscard]] Status put(const MachineConfig& machine);
  [[nodiscard]] Status patch(const MachineConfigPatch& patch);
  [[nodiscard]] Status put(SerialConfig serial);
  [[nodiscard]] Status put(MmdsConfig mmds);
  [[nodiscard]] Status put(ChannelConfig channel);
  [[nodiscard]] Status put(const LoggerConfig& logger);

  /// All of it, as GET /vm/config shows it.
  [[nodiscard]] VmConfig all() const;
  /// Whether a snapshot, which brings a machine of its own, can still be loaded. An MMDS configuration names
  /// interfaces, and metadata are the machine's to come.
  [[nodiscard]] bool empty() const noexcept;
  /// Takes `prepared` where it succeeds. There is a boot source. Error: the command line is too long.
  [[nodiscard]] Result<BootPlan> plan_boot(PreparedVm&& prepared, bool boot_timer) const;
  [[nodiscard]] ConsoleOptions console() const;
  /// Takes over what a snapshot's machine is.
  void take_over(const Snapshot& snapshot, ConfiguredDevices loaded, ConfiguredChannels its_channels);
  /// Adds what was configured, as it is now.
  void describe(Snapshot& snapshot) const;

  VmConfig config;  ///< Without the devices' and channels'.
  ConfiguredDevices devices;
  ConfiguredChannels channels;
  MetadataStore metadata;

 private:
  void warn_of_template() const;

  Log& log_;
  ConsoleOptions console_;
  OwnedFd kernel_;
  OwnedFd initrd_;
  OwnedFd serial_out_;
  bool machine_configured_ = false;  // by a request
};

}  // namespace mayfly
