#include "vmm/machine/virtio_devices.h"

#include "virtio/mmds/network_stack.h"
#include "virtio/net/channel_sockets.h"
#include "vmm/base/clock.h"
#include "vmm/base/random.h"
#include "vmm/boot/layout.h"
#include "vmm/config/mac_address.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// The IOAPIC's pins that no other device has (vmm/boot/layout.h).
constexpr std::array<unsigned, kMaximumVirtioDevices> kLines{5,  6,  7,  8,  10, 11, 12, 13,
                                                             14, 15, 16, 17, 18, 19, 20, 21};

/// A key that nobody can guess, a guest's kernel or a clone's least of all.
Result<SipKey> make_key() {
  SipKey key{};
  if (auto filled = fill_with_random(std::as_writable_bytes(std::span{key}), "serve metadata"); !filled)
    return propagate(filled);
  return key;
}

Result<MetadataService::Identity> make_identity() {
  auto key = make_key();
  if (!key) return propagate(key);
  std::uint64_t generation = 0;
  auto filled = fill_with_random(std::as_writable_bytes(std::span{&generation, 1}), "serve metadata");
  if (!filled) return propagate(filled);
  return MetadataService::Identity{.tokens = SessionTokens{*key, monotonic_ns()}, .generation = generation};
}

/// Whether the guest writes to an overlay.
bool is_layered(const DriveConfig& drive) { return !drive.base_paths.empty() && !drive.is_read_only; }

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

Status VirtioDevices::create(DevicePlans plans, const MachineBuses& buses) {
  service_.emplace(buses.loop);
  const auto windows = virtio_windows(plans.count());
  auto window = windows.begin();
  for (DrivePlan& plan : plans.drives) {
    auto device = BlockDevice::create(plan.config, std::move(plan.image), buses.loop, buses.metrics.block, buses.log);
    if (!device) return propagate(device);
    auto transport = plug(**device, *window++, buses);
    drives_.push_back({std::move(plan.config), std::move(*device), nullptr});
    if (!transport) return propagate(transport);
    drives_.back().transport = *transport;
  }
  channels_ = std::move(plans.channels);
  for (const ChannelPlan& channel : channels_)
    channel_listeners_.push_back(channel.listener
                                     ? std::make_unique<ChannelListener>(channel.listener->fd(),
                                                                         fmt::format("channel {}", channel.config.port),
                                                                         buses.loop, buses.log)
                                     : nullptr);
  if (plans.mmds)
    if (auto served = serve_metadata(std::move(*plans.mmds), buses); !served) return served;
  for (NetworkInterfacePlan& plan : plans.network_interfaces) {
    auto responder = responder_for(plan.config.iface_id, buses);
    if (!responder) return propagate(responder);
    auto device = NetDevice::create(plan.config, std::move(plan.tap), std::move(*responder), buses.loop,
                                    buses.metrics.net, buses.log);
    if (!device) return propagate(device);
    auto transport = plug(**device, *window++, buses);
    interfaces_.push_back({std::move(plan.config), std::move(*device), nullptr});
    if (!transport) return propagate(transport);
    interfaces_.back().transport = *transport;
  }
  return {};
}

Status VirtioDevices::serve_metadata(MmdsConfig config, const MachineBuses& buses) {
  auto identity = make_identity();
  if (!identity) return propagate(identity);
  metadata_service_ =
      std::make_unique<MetadataService>(std::move(config), buses.metadata, *identity, buses.metrics.mmds);
  return {};
}

Result<std::unique_ptr<FrameResponder>> VirtioDevices::responder_for(const std::string& iface_id,
                                                                     const MachineBuses& buses) const {
  if (!metadata_service_ || std::ranges::count(metadata_service_->config().network_interfaces, iface_id) == 0)
    return nullptr;
  auto key = make_key();
  if (!key) return propagate(key);
  auto stack = std::make_unique<NetworkStack>(*metadata_service_, *key, buses.metrics.mmds);
  if (channels_.empty()) return stack;
  std::vector<ChannelSockets::Channel> channels;
  channels.reserve(channels_.size());
  for (std::size_t i = 0; i < channels_.size(); ++i)
    channels.push_back({.port = channels_[i].config.port,
                        .uds_path = channels_[i].config.uds_path,
                        .listener = channel_listeners_[i].get()});
  stack->serve_channels(
      std::make_unique<ChannelSockets>(std::move(channels), buses.loop, buses.log, "network interface " + iface_id),
      buses.metrics.channels);
  return stack;
}

Result<MmioTransport*> VirtioDevices::plug(VirtioDevice& device, const VirtioMmioWindow& window,
                                           const MachineBuses& buses) {
  auto transport = MmioTransport::create(device, {.memory = buses.memory,
                                                  .service = *service_,
                                                  .log = buses.log,
                                                  .metrics = buses.metrics.virtio,
                                                  .pic_line = buses.wiring.pic_line(window.gsi)});
  if (!transport) return propagate(transport);
  MmioTransport& made = *transports_.emplace_back(std::move(*transport));
  if (auto attached = buses.mmio.attach(device.name(), window.base.value, window.size, made); !attached)
    return propagate(attached);
  const GuestAddress notify{window.base.value + kQueueNotifyOffset};
  for (std::size_t queue = 0; queue < made.queue_count(); ++queue)
    if (auto attached = buses.vm.attach_kick(notify, static_cast<std::uint32_t>(queue), made.kick_fd(queue)); !attached)
      return propagate(attached);
  buses.ioapic.let_kvm_send(window.gsi, made);
  if (auto attached = buses.vm.attach_interrupt(window.gsi, made.interrupt_fd()); !attached) return propagate(attached);
  return &made;
}

void VirtioDevices::start() {
  for (const auto& transport : transports_) transport->start();
}

void VirtioDevices::freeze() {
  for (const auto& interface : interfaces_) interface.device->freeze();
}

void VirtioDevices::thaw() {
  for (const auto& interface : interfaces_) interface.device->thaw();
}

void VirtioDevices::drain(std::function<void()> drained) {
  drained_ = std::move(drained);
  draining_ = transports_.size() + 1;
  const auto one_has = [this, turn = ++drains_] {
    if (--draining_ > 0) return;
    service_->loop().post([this, turn] {
      if (drained_ && turn == drains_) std::exchange(drained_, nullptr)();
    });
  };
  for (const auto& transport : transports_) transport->drain(one_has);
  one_has();  // of none at all
}

void VirtioDevices::undrain() {
  drained_ = nullptr;
  for (const auto& transport : transports_) transport->undrain();
}

std::string VirtioDevices::undrained() const {
  std::string names;
  const auto add = [&names](const auto& plugged) {
    if (plugged.transport->is_drained()) return;
    if (!names.empty()) names += ", ";
    names += plugged.device->name();
  };
  std::ranges::for_each(drives_, add);
  std::ranges::for_each(interfaces_, add);
  return names;
}

void VirtioDevices::save(Snapshot& snapshot) {
  for (const auto& [config, device, transport] : drives_)
    snapshot.drives.push_back({.transport = transport->state(), .device = device->state()});
  for (const auto& [config, device, transport] : interfaces_)
    snapshot.network_interfaces.push_back({.transport = transport->state(), .device = device->state()});
}

Status VirtioDevices::sync(Snapshot& snapshot, DriveSync which) const {
  for (std::size_t i = 0; i < drives_.size(); ++i) {
    BlockDevice& device = *drives_[i].device;
    if (which == DriveSync::Layered && !is_layered(drives_[i].config) && !device.is_freezing()) continue;
    auto synced = which == DriveSync::Plain ? device.sync_to_point() : device.sync();
    if (!synced) return propagate(synced, device.name());
    if (which != DriveSync::Plain) snapshot.drives[i].device.image = device.kept_image();
  }
  return {};
}

Status VirtioDevices::note_sync_point() const {
  for (const auto& drive : drives_)
    if (auto noted = drive.device->note_sync_point(); !noted) return propagate(noted, drive.device->name());
  return {};
}

void VirtioDevices::end_snapshot(bool counts) const {
  for (const auto& drive : drives_) drive.device->end_snapshot(counts);
}

bool VirtioDevices::writes_to_drives() const noexcept {
  return std::ranges::any_of(drives_, [](const auto& drive) { return !drive.config.is_read_only; });
}

void VirtioDevices::note_revert_point() {
  for (const auto& drive : drives_) drive.device->note_revert_point();
}

Status VirtioDevices::can_revert() const {
  for (const auto& drive : drives_)
    if (auto can = drive.device->can_revert(); !can) return can;
  return {};
}

Status VirtioDevices::revert(const Snapshot& snapshot) {
  if (metadata_service_) {
    auto identity = make_identity();
    if (!identity) return propagate(identity);
    metadata_service_->replace(*identity);
  }
  drained_ = nullptr;
  for (const auto& drive : drives_)
    if (auto emptied = drive.device->empty_overlay(); !emptied) return emptied;
  for (const auto& transport : transports_) transport->forget_driver();
  // Its images are those of the load, which were compared with the snapshot's.
  return restore_states(snapshot, true);
}

void VirtioDevices::interrupt_unacknowledged() noexcept {
  for (const auto& transport : transports_) transport->interrupt_unacknowledged();
}

Status VirtioDevices::restore(const Snapshot& snapshot, bool allow_changed_drives) {
  ensure(drives_.size() == snapshot.drives.size() && interfaces_.size() == snapshot.network_interfaces.size(),
         "a snapshot is restored into the devices that it names");
  return restore_states(snapshot, allow_changed_drives);
}

Status VirtioDevices::restore_states(const Snapshot& snapshot, bool allow_changed_drives) {
  for (std::size_t i = 0; i < drives_.size(); ++i) {
    const DriveState& saved = snapshot.drives[i];
    // An image that was named for this restore is a copy: its time of change says nothing.
    const bool other_file = drives_[i].config.path_on_host != saved.config.path_on_host;
    const auto images = allow_changed_drives ? BlockDevice::Images::MayDiffer
                        : other_file         ? BlockDevice::Images::Replaced
                                             : BlockDevice::Images::Unchanged;
    if (auto restored = drives_[i].device->restore(saved.device, images); !restored) return restored;
    if (auto restored = drives_[i].transport->restore(saved.transport); !restored) return restored;
  }
  for (std::size_t i = 0; i < interfaces_.size(); ++i) {
    const NetworkInterfaceState& saved = snapshot.network_interfaces[i];
    interfaces_[i].device->restore(saved.device);
    if (auto restored = interfaces_[i].transport->restore(saved.transport); !restored) return restored;
    // The guest that was saved knows the address that it had.
    if (interfaces_[i].device->mac() != mac_of(saved.config)) interfaces_[i].transport->announce_config();
  }
  return {};
}

BlockDevice& VirtioDevices::drive(std::string_view id) {
  const auto found = std::ranges::find_if(drives_, [id](const auto& drive) { return drive.config.drive_id == id; });
  ensure(found != drives_.end(), "a configured drive has no device");
  return *found->device;
}

NetDevice& VirtioDevices::network_interface(std::string_view id) {
  const auto found =
      std::ranges::find_if(interfaces_, [id](const auto& interface) { return interface.config.iface_id == id; });
  ensure(found != interfaces_.end(), "a configured interface has no device");
  return *found->device;
}

}  // namespace mayfly
