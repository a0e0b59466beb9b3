// The transport's part that snapshots are made of.

#include "virtio/mmio_transport.h"

#include <linux/virtio_config.h>

#include <bit>

#include <fmt/format.h>

namespace mayfly {

MmioTransportState MmioTransport::state() const {
  const MutexLock lock{mutex_};
  MmioTransportState state{.device_features_select = device_features_select_,
                           .driver_features_select = driver_features_select_,
                           .driver_features = driver_features_,
                           .queue_select = queue_select_,
                           .status = status_,
                           .interrupt_status = interrupt_status_.load(std::memory_order_acquire),
                           .config_generation = config_generation_};
  for (const VirtQueue& queue : queues_) state.queues.push_back(queue.state());
  return state;
}

Status MmioTransport::check_features(const MmioTransportState& state) const {
  const std::uint64_t missing = state.driver_features & ~offered_features();
  // 3.1.1: what is written before FEATURES_OK is not agreed on; that step checks it.
  const bool agreed = (state.status & (VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)) != 0;
  if (!agreed || missing == 0) return {};
  const auto bit = static_cast<unsigned>(std::countr_zero(missing));
  const auto [name, remedy] = device_.feature_text(bit);
  return fail(
      ErrorKind::InvalidArgument, "{}: the snapshot's guest uses {}, which this device does not offer: {}",
      device_.name(), name.empty() ? fmt::format("feature {}", bit) : name,
      remedy.empty() ? "restore it with the version of Mayfly and the configuration that it was taken with" : remedy);
}

void MmioTransport::forget_driver() {
  const MutexLock lock{mutex_};
  ensure(phase_ == DevicePhase::Idle || phase_ == DevicePhase::Drained, "a device was to be restored at work");
  drained_ = nullptr;
  undrain_when_drained_ = false;
  clear();
  context_.service.forget_interrupt(interrupt_fd_.get());
}

void MmioTransport::interrupt_unacknowledged() noexcept {
  const MutexLock lock{mutex_};
  if (const std::uint32_t pending = interrupt_status_.load(std::memory_order_acquire); pending != 0) interrupt(pending);
}

void MmioTransport::announce_config() {
  const MutexLock lock{mutex_};
  config_changed();
}

Status MmioTransport::restore(const MmioTransportState& state) {
  const MutexLock lock{mutex_};
  if (auto offered = check_features(state); !offered) return offered;
  if (state.queues.size() != queues_.size())
    return fail(ErrorKind::InvalidArgument, "{}: the saved device has {} queues, this one {}", device_.name(),
                state.queues.size(), queues_.size());
  for (std::size_t i = 0; i < queues_.size(); ++i)
    if (auto restored = queues_[i].restore(state.queues[i]); !restored)
      return fail(ErrorKind::InvalidArgument, "{}: saved queue {}: {}", device_.name(), i, restored.error().what);
  device_features_select_ = state.device_features_select;
  driver_features_select_ = state.driver_features_select;
  driver_features_ = state.driver_features;
  queue_select_ = state.queue_select;
  status_ = state.status;
  interrupt_status_.store(state.interrupt_status, std::memory_order_release);
  config_generation_ = state.config_generation;
  if (status_has(VIRTIO_CONFIG_S_DRIVER_OK)) start_device();
  return {};
}

}  // namespace mayfly
