#include "virtio/net/net_device.h"

#include "vmm/base/clock.h"
#include "vmm/config/mac_address.h"

#include <linux/virtio_ids.h>

#include <algorithm>
#include <utility>

namespace mayfly {
namespace {

using net_abi::bit;

/// What every TAP can do. UFO is not among it: IP fragments from one frame, which kernels only emulate any more.
constexpr std::uint64_t kAlwaysOffered = bit(net_abi::kMac) | bit(net_abi::kStatus) | bit(net_abi::kMergeable) |
                                         bit(net_abi::kCsum) | bit(net_abi::kHostTso4) | bit(net_abi::kHostTso6) |
                                         bit(net_abi::kHostEcn) | bit(net_abi::kGuestCsum) | bit(net_abi::kGuestTso4) |
                                         bit(net_abi::kGuestTso6) | bit(net_abi::kGuestEcn);
constexpr std::uint64_t kUso = bit(net_abi::kHostUso) | bit(net_abi::kGuestUso4) | bit(net_abi::kGuestUso6);

/// Changes of a TAP's offloads that a driver may cause. Each takes a lock that all of the host's networking shares
/// (rtnl). A boot needs one, or a few where the loader has a driver of its own; later there are none.
constexpr TokenBucketConfig kOffloadChanges{.size = 32, .refill_time_ms = 32'000};

TapOffloads offloads_for(std::uint64_t features) noexcept {
  const auto has = [features](net_abi::Feature feature) { return (features & bit(feature)) != 0; };
  return {.checksum = has(net_abi::kGuestCsum),
          .tso4 = has(net_abi::kGuestTso4),
          .tso6 = has(net_abi::kGuestTso6),
          .ecn = has(net_abi::kGuestEcn),
          // The host knows UDP over both or neither.
          .uso = has(net_abi::kGuestUso4) && has(net_abi::kGuestUso6)};
}

}  // namespace

// --- Construction ----------------------------------------------------------------------------------------------------

NetDevice::NetDevice(const NetworkInterfaceConfig& config, Tap tap, std::unique_ptr<FrameResponder> responder,
                     EventLoop& loop, NetMetrics& metrics, Log& log)
    : context_(loop, metrics, log, "network interface " + config.iface_id, std::move(tap), std::move(responder)),
      mac_(mac_of(config)),
      mtu_(config.mtu),
      offered_(kAlwaysOffered | (context_.tap.has_uso() ? kUso : 0) | (config.mtu ? bit(net_abi::kMtu) : 0)),
      offload_changes_(kOffloadChanges, monotonic_ns()),
      receiver_(context_),
      transmitter_(context_, receiver_, config.check_source_mac ? std::optional{mac_} : std::nullopt) {}

Result<std::unique_ptr<NetDevice>> NetDevice::create(const NetworkInterfaceConfig& config, Tap tap,
                                                     std::unique_ptr<FrameResponder> responder, EventLoop& loop,
                                                     NetMetrics& metrics, Log& log) {
  std::unique_ptr<NetDevice> device{new NetDevice{config, std::move(tap), std::move(responder), loop, metrics, log}};
  if (device->context_.tap.exists()) {
    auto file = loop.register_file(device->context_.tap.fd());
    if (!file) return propagate(file, device->name());
    device->context_.file = std::move(*file);
  }
  if (auto made = device->receiver_.prepare(config.rx_rate_limiter); !made) return propagate(made, device->name());
  if (auto made = device->transmitter_.prepare(config.tx_rate_limiter); !made) return propagate(made, device->name());
  return device;
}

// --- Control path ----------------------------------------------------------------------------------------------------

void NetDevice::connect(DeviceHost& host) noexcept {
  VirtioDevice::connect(host);
  context_.host = &host;
  if (context_.responder)
    context_.responder->set_caller([this](const std::function<void()>& work) {
      const MutexLock lock{mutex()};
      parts_have_lock();
      work();
      context_.responder->on_news(monotonic_ns());
      receiver_.respond();
    });
}

std::uint32_t NetDevice::type() const noexcept { return VIRTIO_ID_NET; }

FeatureText NetDevice::feature_text(unsigned feature) const noexcept {
  constexpr std::string_view kNewKernel =
      "restore it on a host with Linux 6.2 or later, which segments UDP as the host of the snapshot did";
  switch (feature) {  // the rest is always offered
    case net_abi::kMtu:
      return {"VIRTIO_NET_F_MTU", "configure the interface with its mtu"};
    case net_abi::kGuestUso4:
      return {"VIRTIO_NET_F_GUEST_USO4", kNewKernel};
    case net_abi::kGuestUso6:
      return {"VIRTIO_NET_F_GUEST_USO6", kNewKernel};
    case net_abi::kHostUso:
      return {"VIRTIO_NET_F_HOST_USO", kNewKernel};
    default:
      return {};
  }
}

void NetDevice::read_config(std::uint64_t offset, std::span<std::byte> data) const noexcept {
  parts_have_lock();
  net_abi::Config space{.mac = {},
                        .status = context_.link_up ? net_abi::kLinkUp : std::uint16_t{0},
                        .max_virtqueue_pairs = 1,
                        .mtu = mtu_.value_or(0)};
  std::ranges::copy(mac_, space.mac);
  read_space(space, offset, data);
}

void NetDevice::prepare(std::uint64_t accepted) noexcept {
  const TapOffloads wanted = offloads_for(accepted);
  const bool refused = context_.tap.would_change(wanted) && !offload_changes_.take(1, monotonic_ns());
  {
    const MutexLock lock{mutex()};
    parts_have_lock();
    context_.offloads_refused = refused;
  }
  if (refused) return;
  // Refused only by a TAP that is gone, which the first read finds out.
  if (auto set = context_.tap.set_offloads(wanted); !set && context_.log_rate.allow())
    context_.log.warning("{}: {}", name(), set.error().message);
}

/// A driver whose offloads were refused is stopped. Waiting would keep its vCPU from being paused, and frames that it
/// cannot read must not reach it. The loop reports it.
void NetDevice::activate(std::uint64_t accepted, std::span<VirtQueue> queues) noexcept {
  parts_have_lock();
  context_.features = accepted;
  receiver_.activate(queues[kNetReceiveQueue]);
  transmitter_.activate(queues[kNetTransmitQueue]);
}

void NetDevice::reset() noexcept {
  parts_have_lock();
  receiver_.reset();
  transmitter_.reset();
  if (context_.responder) context_.responder->reset();
  context_.features = 0;
  context_.offloads_refused = link_news_ = false;
}

void NetDevice::on_kick(unsigned queue) noexcept {
  parts_have_lock();
  if (std::exchange(context_.offloads_refused, false))
    return host().broken("offloads that change faster than the host lets them");
  if (std::exchange(link_news_, false) && context_.has_feature(net_abi::kStatus)) host().config_changed();
  if (queue == kNetReceiveQueue)
    receiver_.post_reads();
  else
    transmitter_.process_queue();
}

void NetDevice::drain() noexcept {
  parts_have_lock();
  receiver_.cancel();
  transmitter_.cancel();
  context_.end_drain();
}

void NetDevice::undrain() noexcept {
  parts_have_lock();
  receiver_.undrain();
}

void NetDevice::update_rate_limiters(const NetworkInterfacePatch& patch) {
  const MutexLock lock{mutex()};
  parts_have_lock();
  if (patch.rx_rate_limiter) receiver_.limiter().update(*patch.rx_rate_limiter);
  if (patch.tx_rate_limiter) transmitter_.limiter().update(*patch.tx_rate_limiter);
  context_.metrics.update_count.add();
}

void NetDevice::freeze() {
  const MutexLock lock{mutex()};
  parts_have_lock();
  if (!context_.still_since) context_.still_since = monotonic_ns();
}

void NetDevice::thaw() {
  const MutexLock lock{mutex()};
  parts_have_lock();
  const auto since = std::exchange(context_.still_since, std::nullopt);
  if (!since) return;
  if (context_.responder) context_.responder->stood_still(*since, monotonic_ns());
  receiver_.thaw();
}

// --- Snapshot --------------------------------------------------------------------------------------------------------

NetDeviceState NetDevice::state() {
  const MutexLock lock{mutex()};
  parts_have_lock();
  return {.features = context_.features,
          .receive_heads = receiver_.held_heads(),
          .receive_limiter = receiver_.limiter().state(),
          .transmit_limiter = transmitter_.limiter().state(),
          .link_up = context_.link_up && !link_news_,
          .streams = context_.responder ? context_.responder->stream_ends() : std::vector<StreamEnd>{}};
}

void NetDevice::restore(const NetDeviceState& state) {
  const MutexLock lock{mutex()};
  parts_have_lock();
  context_.features = state.features;
  if (context_.responder) context_.responder->restore(state.streams);
  receiver_.hold_again(state.receive_heads);
  receiver_.limiter().restore(state.receive_limiter);
  transmitter_.limiter().restore(state.transmit_limiter);
  // A driver asks again only where it is told to.
  link_news_ = state.link_up != context_.link_up;
  // The host's changes of offloads, not the guest's: one that has spent its own must not spoil them.
  offload_changes_ = TokenBucket{kOffloadChanges, monotonic_ns()};
}

}  // namespace mayfly
