#pragma once

#include "snapshot/snapshot.h"
#include "virtio/block/block_device.h"
#include "virtio/mmds/metadata_service.h"
#include "virtio/mmio_transport.h"
#include "virtio/net/channel_listener.h"
#include "virtio/net/net_device.h"
#include "vmm/base/unix_listener.h"
#include "vmm/boot/command_line.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/interrupt_wiring.h"
#include "vmm/devices/ioapic.h"
#include "vmm/kvm/vm.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// A machine's drives and network interfaces, each with its window, its interrupt line and its transport.
///
///   VirtioDevices devices;
///   devices.create(std::move(plans), buses);   // plugged into bus, KVM and IOAPIC, drives first
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

/// A channel, and the socket of one that listens.
struct ChannelPlan {
  ChannelConfig config;
  std::shared_ptr<UnixListener> listener{};
};

struct DevicePlans {
  std::vector<DrivePlan> drives;  ///< The root device first.
  std::vector<NetworkInterfacePlan> network_interfaces;
  std::optional<MmdsConfig> mmds{};     ///< Which interfaces serve metadata, and how.
  std::vector<ChannelPlan> channels{};  ///< Of the same interfaces.
  [[nodiscard]] std::size_t count() const noexcept { return drives.size() + network_interfaces.size(); }
};

/// Where `count` devices (at most kMaximumVirtioDevices) are: a page and an interrupt line each.
[[nodiscard]] std::vector<VirtioMmioWindow> virtio_windows(std::size_t count);

/// What the kernel's command line says of drives, for the root device ("root=/dev/vda", "ro"), and of windows.
[[nodiscard]] std::vector<std::string> virtio_arguments(const std::vector<DriveConfig>& drives,
                                                        const std::vector<VirtioMmioWindow>& windows);

/// Which drives are synced for a snapshot. The map of an overlay is written with its data, which takes a drive that is at
/// rest; any other image is synced while it is written to as well.
enum class DriveSync { All, Layered, Plain };

/// Members are for the loop's thread.
class VirtioDevices {
 public:
  /// What the devices are plugged into. Everything outlives them.
  struct MachineBuses {
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
  [[nodiscard]] Status create(DevicePlans plans, const MachineBuses& buses);
  /// Begins to listen for kicks; from here on the ring holds operations of the devices.
  void start();

  /// The vCPUs are paused, and are about to go on: no time passes in between for what waits for the guest.
  void freeze();
  void thaw();

  /// For a snapshot, with the vCPUs paused. `drained` follows once, in a task of its own, when nothing is in flight,
  /// unless undrain() comes first.
  void drain(std::function<void()> drained);
  /// The devices go on as if nothing had been.
  void undrain();
  /// The names of those that have not drained.
  [[nodiscard]] std::string undrained() const;
  /// Drained: adds the devices' states. The configurations, which PATCH changes, are the caller's to add.
  void save(Snapshot& snapshot);
  /// Puts what drives have written on stable storage, and, of those that are drained, notes the images' times of change
  /// as they are then. Any thread, while the devices are drained; Plain: after note_sync_point(), what was written until
  /// then, also while they are at work. Error: a disk's.
  [[nodiscard]] Status sync(Snapshot& snapshot, DriveSync which = DriveSync::All) const;
  /// Drained, and synced as DriveSync::Layered says: the devices are about to go on. Any thread: it may wait for a disk.
  /// Error: no descriptors left.
  [[nodiscard]] Status note_sync_point() const;
  void end_snapshot(bool counts) const;
  /// Whether DriveSync::Layered or note_sync_point() may have anything to do.
  [[nodiscard]] bool writes_to_drives() const noexcept;
  /// Gives devices of the snapshot's configuration its state; before start(). Errors: images that have changed, what
  /// does not fit this machine.
  [[nodiscard]] Status restore(const Snapshot& snapshot, bool allow_changed_drives);

  /// Restored, before the guest runs: this is what revert() goes back to.
  void note_revert_point();
  /// Whether all devices can go back to a snapshot. Error: a drive that cannot.
  [[nodiscard]] Status can_revert() const;
  /// Drained: the same as restore(), of devices that were restored from the same snapshot and have been used since. What
  /// the metadata service has given, connections and tokens, is of no use any more. Errors: no random numbers; an overlay
  /// that cannot be emptied.
  [[nodiscard]] Status revert(const Snapshot& snapshot);
  /// After revert(), once the vCPUs and the platform are set back: as start() does.
  void interrupt_unacknowledged() noexcept;

  /// The device of that id; the configuration knows that there is one.
  [[nodiscard]] BlockDevice& drive(std::string_view id);
  [[nodiscard]] NetDevice& network_interface(std::string_view id);

 private:
  [[nodiscard]] Result<MmioTransport*> plug(VirtioDevice& device, const VirtioMmioWindow& window,
                                            const MachineBuses& buses);
  [[nodiscard]] Status restore_states(const Snapshot& snapshot, bool allow_changed_drives);
  [[nodiscard]] Status serve_metadata(MmdsConfig config, const MachineBuses& buses);
  /// What answers on that interface in the network's place; null: nothing does.
  [[nodiscard]] Result<std::unique_ptr<FrameResponder>> responder_for(const std::string& iface_id,
                                                                      const MachineBuses& buses) const;

  template <typename Device, typename Config>
  struct Plugged {
    Config config;  ///< As it was plugged in.
    std::unique_ptr<Device> device;
    MmioTransport* transport = nullptr;
  };
  std::optional<VirtioService> service_;  // from create() on
  std::function<void()> drained_;
  std::size_t draining_ = 0;  // transports that have not drained
  unsigned drains_ = 0;       // how many have begun: what an earlier one's task tells from this
  std::unique_ptr<MetadataService> metadata_service_;                // which the interfaces use
  std::vector<ChannelPlan> channels_;                                // the same
  std::vector<std::unique_ptr<ChannelListener>> channel_listeners_;  // as channels_; null: it does not listen
  std::vector<Plugged<BlockDevice, DriveConfig>> drives_;
  std::vector<Plugged<NetDevice, NetworkInterfaceConfig>> interfaces_;
  std::vector<std::unique_ptr<MmioTransport>> transports_;  // before the devices in destruction
};

}  // namespace mayfly
