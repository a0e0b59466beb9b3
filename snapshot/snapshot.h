#pragma once

#include "snapshot/host_cpu.h"
#include "virtio/block/block_device_state.h"
#include "virtio/mmio_transport_state.h"
#include "virtio/net/net_device_state.h"
#include "vmm/base/error.h"
#include "vmm/config/configuration.h"
#include "vmm/devices/acpi_sleep_ports_state.h"
#include "vmm/devices/boot_timer_state.h"
#include "vmm/devices/dual_pic_state.h"
#include "vmm/devices/i8042_state.h"
#include "vmm/devices/ioapic_state.h"
#include "vmm/devices/pit_state.h"
#include "vmm/devices/serial_state.h"
#include "vmm/kvm/vcpu_state.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// What a snapshot's state file holds: everything of a machine but the bytes of its memory.
namespace mayfly {

/// Names a pair of state file and memory file: random, new for every snapshot.
using SnapshotId = std::array<std::uint8_t, 16>;

/// A fresh one; for a diff of `base` with another last bit than that one's (see memory_file.h). Errors: the host has no
/// random numbers.
[[nodiscard]] Result<SnapshotId> make_snapshot_id(const std::optional<SnapshotId>& base = std::nullopt);
/// 32 hexadecimal digits.
[[nodiscard]] std::string format_snapshot_id(const SnapshotId& id);

struct DriveState {
  DriveConfig config{};
  MmioTransportState transport{};
  BlockDeviceState device{};
};

struct NetworkInterfaceState {
  NetworkInterfaceConfig config{};
  MmioTransportState transport{};
  NetDeviceState device{};
};

/// The guest's clock, and the host's real time at that moment.
struct ClockState {
  std::uint64_t guest_ns = 0;
  std::uint64_t realtime_ns = 0;
};

struct PlatformState {
  IoapicState ioapic{};
  DualPicState pic{};
  PitState pit{};
  SerialState serial{};
  I8042State i8042{};
  AcpiSleepPortsState sleep_ports{};
  bool has_boot_timer = false;
  BootTimerState boot_timer{};
  /// A vector of the PIC's that KVM had taken and not delivered to the first vCPU.
  std::optional<std::uint8_t> undelivered_interrupt{};
};

struct Snapshot {
  SnapshotId id{};
  std::string producer{};  ///< Mayfly's version.
  HostCpu host{};
  MachineConfig machine{};
  std::optional<CpuConfig> cpu{};
  std::optional<BootSource> boot_source{};
  std::optional<MmdsConfig> mmds{};  ///< Not the metadata: each clone gets its own.
  std::vector<ChannelConfig> channels{};
  ClockState clock{};
  std::vector<VcpuState> vcpus{};
  PlatformState platform{};
  std::vector<DriveState> drives{};  ///< In the order of their windows; the network interfaces' follow.
  std::vector<NetworkInterfaceState> network_interfaces{};
};

}  // namespace mayfly
