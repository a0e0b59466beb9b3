#include "vmm/machine/virtio_devices.h"

#include "vmm/boot/layout.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// The IOAPIC's pins that no other device has (vmm/boot/layout.h).
constexpr std::array<unsigned, kMaximumVirtioDevices> kLines{5,  6,  7,  8,  10, 11, 12, 13,
                                                             14, 15, 16, 17, 18, 19, 20, 21};

}  // namespace

std::vector<VirtioMmioWindow> virtio_windows(std::size_t count) {
  ensure(count <= kLines.size(), "more virtio devices than interrupt lines");
  std::vector<VirtioMmioWindow> windows;
  windows.reserve(count);
  for (std::size_t i = 0; i < count; ++i)
    windows.push_back({.base = GuestAddress{kMmioHoleStart + i * kMmioWindowSize}, .gsi = kLines[i]});
  return windows;
}

std::vector<std::string> virtio_arguments(const std::vector<DriveConfig>& drives,
                                          const std::vector<VirtioMmioWindow>& windows) {
  std::vector<std::string> arguments;
  if (!drives.empty() && drives.front().is_root_device) {
    const DriveConfig& root = drives.front();
    arguments.push_back(root.partuuid ? "root=PARTUUID=" + *root.partuuid : "root=/dev/vda");
    arguments.emplace_back(root.is_read_only ? "ro" : "rw");
  }
  for (const VirtioMmioWindow& window : windows) arguments.push_back(virtio_mmio_argument(window));
  return arguments;
}

Status VirtioDevices::create(DevicePlans plans, const Sockets& sockets) {
  const auto windows = virtio_windows(plans.count());
  auto window = windows.begin();
  for (DrivePlan& plan : plans.drives) {
    auto device =
        BlockDevice::create(plan.config, std::move(plan.image), sockets.loop, sockets.metrics.block, sockets.log);
    if (!device) return propagate(device);
    drives_.push_back({plan.config.drive_id, std::move(*device)});
    if (auto plugged = plug(*drives_.back().device, *window++, sockets); !plugged) return plugged;
  }
  for (NetworkInterfacePlan& plan : plans.network_interfaces) {
    auto device = NetDevice::create(plan.config, std::move(plan.tap), sockets.loop, sockets.metrics.net, sockets.log);
    if (!device) return propagate(device);
    interfaces_.push_back({plan.config.iface_id, std::move(*device)});
    if (auto plugged = plug(*interfaces_.back().device, *window++, sockets); !plugged) return plugged;
  }
  return {};
}

Status VirtioDevices::plug(VirtioDevice& device, const VirtioMmioWindow& window, const Sockets& sockets) {
  auto transport = MmioTransport::create(
      device, {.memory = sockets.memory, .loop = sockets.loop, .log = sockets.log, .metrics = sockets.metrics.virtio});
  if (!transport) return propagate(transport);
  MmioTransport& made = *transports_.emplace_back(std::move(*transport));
  if (auto attached = sockets.mmio.attach(device.name(), window.base.value, window.size, made); !attached)
    return attached;
  const GuestAddress notify{window.base.value + kQueueNotifyOffset};
  for (std::size_t queue = 0; queue < made.queue_count(); ++queue)
    if (auto attached = sockets.vm.attach_kick(notify, static_cast<std::uint32_t>(queue), made.kick_fd(queue));
        !attached)
      return attached;
  sockets.ioapic.let_kvm_send(window.gsi);
  return sockets.vm.attach_interrupt(window.gsi, made.interrupt_fd());
}

void VirtioDevices::start() {
  for (const auto& transport : transports_) transport->start();
}

BlockDevice& VirtioDevices::drive(std::string_view id) {
  const auto found = std::ranges::find(drives_, id, &Named<BlockDevice>::id);
  ensure(found != drives_.end(), "a configured drive has no device");
  return *found->device;
}

NetDevice& VirtioDevices::network_interface(std::string_view id) {
  const auto found = std::ranges::find(interfaces_, id, &Named<NetDevice>::id);
  ensure(found != interfaces_.end(), "a configured interface has no device");
  return *found->device;
}

}  // namespace mayfly
