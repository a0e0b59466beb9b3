#pragma once

#include "snapshot/snapshot.h"
#include "virtio/block/block_device.h"
#include "virtio/mmds/metadata_service.h"
#include "virtio/mmio_transport.h"
#include "virtio/net/net_device.h"
#include "vmm/boot/command_line.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/interrupt_wiring.h"
#include "vmm/devices/ioapic.h"
#include "vmm/kvm/vm.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// A machine's drives and network interfaces, each with its window, its interrupt line and its transport.
///
///   VirtioDevices devices;
///   devices.create(std::move(plans), sockets);   // plugged into bus, KVM and IOAPIC, drives first
///   devices.start();                             // they listen for kicks
namespace mayfly {

/// A drive to plug in, and its file.
struct DrivePlan {
  DriveConfig config;
  DiskImage image;
};

/// A network interface to plug in, and its TAP.
struct NetworkInterfacePlan {
  NetworkInterfaceConfig config;
  Tap tap;
};

struct DevicePlans {
  std::vector<DrivePlan> drives;  ///< The root device first.
  std::vector<NetworkInterfacePlan> network_interfaces;
  std::optional<MmdsConfig> mmds{};  ///< Which interfaces serve metadata, and how.
  [[nodiscard]] std::size_t count() const noexcept { return drives.size() + network_interfaces.size(); }
};

/// Where `count` devices (at most kMaximumVirtioDevices) are: a page and an interrupt line each.
[[nodiscard]] std::vector<VirtioMmioWindow> virtio_windows(std::size_t count);

/// What the kernel's command line says of drives, for the root device ("root=/dev/vda", "ro"), and of windows.
[[nodiscard]] std::vector<std::string> virtio_arguments(const std::vector<DriveConfig>& drives,
                                                        const std::vector<VirtioMmioWindow>& windows);

/// Members are for the loop's thread.
class VirtioDevices {
 public:
  /// What the devices are plugged into. Everything outlives them.
  struct Sockets {
    const GuestMemory& memory;
    Vm& vm;
    Ioapic& ioapic;
    InterruptWiring& wiring;
    Bus& mmio;
    EventLoop& loop;
    Log& log;
    Metrics& metrics;
    const MetadataStore& metadata;
  };

  /// Before the vCPUs exist. Takes the files of the plans.
  [[nodiscard]] Status create(DevicePlans plans, const Sockets& sockets);
  /// Begins to listen for kicks; from here on the ring holds operations of the devices.
  void start();

  /// The vCPUs are paused, and are about to go on: no time passes in between for what waits for the guest.
  void stand_still();
  void move_on();

  /// For a snapshot, with the vCPUs paused: brings every device to rest, and lets it go on as if nothing had been.
  void quiesce(EventLoop& loop);
  void go_on();
  /// At rest. Puts what drives have written on stable storage first. The configurations, which PATCH changes, are the
  /// caller's to add. Error: a disk's.
  [[nodiscard]] Status save(Snapshot& snapshot);
  /// Gives devices of the snapshot's configuration its state; before start(). Errors: images that have changed, what
  /// does not fit this machine.
  [[nodiscard]] Status restore(const Snapshot& snapshot, bool allow_changed_drives);

  /// The device of that id; the configuration knows that there is one.
  [[nodiscard]] BlockDevice& drive(std::string_view id);
  [[nodiscard]] NetDevice& network_interface(std::string_view id);

 private:
  [[nodiscard]] Result<MmioTransport*> plug(VirtioDevice& device, const VirtioMmioWindow& window,
                                            const Sockets& sockets);
  [[nodiscard]] Status serve_metadata(MmdsConfig config, const Sockets& sockets);
  /// What answers on that interface in the network's place; null: nothing does.
  [[nodiscard]] Result<std::unique_ptr<FrameResponder>> responder_for(const std::string& iface_id,
                                                                      const Sockets& sockets) const;

  template <typename Device, typename Config>
  struct Plugged {
    Config config;  ///< As it was plugged in.
    std::unique_ptr<Device> device;
    MmioTransport* transport = nullptr;
  };
  std::unique_ptr<MetadataService> metadata_service_;  // which the interfaces use
  std::vector<Plugged<BlockDevice, DriveConfig>> drives_;
  std::vector<Plugged<NetDevice, NetworkInterfaceConfig>> interfaces_;
  std::vector<std::unique_ptr<MmioTransport>> transports_;  // before the devices in destruction
};

}  // namespace mayfly
