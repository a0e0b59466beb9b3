#pragma once

#include "virtio/queue.h"
#include "vmm/base/mutex.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

/// What a virtio device is to its transport, and the transport to the device.
///
/// Threads. A vCPU thread writes the transport's registers (set-up, reset); the loop's thread serves kicks and
/// completions. Both take the device's lock, which is free on the data path but for those moments. So every member of
/// a VirtioDevice below is called with the lock held; a device takes it itself where the ring calls it
/// (Operation::on_complete, timers): DeviceHost::mutex().
///
/// A reset waits: registers read as busy until everything in flight has come back, since a buffer that is still being
/// filled belongs to nobody else. drain() makes a device cancel what could take long; the device calls
/// DeviceHost::drained() when it is done.
namespace mayfly {

/// A device's phase. Its transport owns it; the device asks (DeviceHost::phase()) and keeps no flags for the same.
///
///   Idle -> Starting -> Active -> Draining -> Drained -> Active | Idle (a reset)
///                       Active -> Broken -> Draining -> Drained -> Broken | Idle
enum class DevicePhase {
  Idle,      ///< As made, or reset: it has no driver.
  Starting,  ///< The host prepares for a driver.
  Active,    ///< Takes chains.
  Broken,    ///< Its driver has broken the protocol: takes none until the reset, and lets what is in flight come back.
  Draining,  ///< Takes none, and what is in flight comes back soon.
  Drained,   ///< Nothing is in flight.
};

/// What a device asks of its transport. Under the device's lock, on the loop's thread.
class DeviceHost {
 public:
  DeviceHost() = default;
  DeviceHost(const DeviceHost&) = delete;
  DeviceHost& operator=(const DeviceHost&) = delete;
  virtual ~DeviceHost() = default;

  /// The device's lock.
  [[nodiscard]] Mutex& mutex() const noexcept RETURN_CAPABILITY(mutex_) { return mutex_; }
  [[nodiscard]] DevicePhase phase() const noexcept REQUIRES(mutex_) { return phase_; }
  /// Chains were put into the queue: at the end of the loop's present round they are published and, where the driver
  /// wants it, an interrupt is sent; one for all of the device's queues.
  virtual void used(unsigned queue) noexcept = 0;
  /// The configuration space has changed: its generation counts up and the driver is interrupted.
  virtual void config_changed() noexcept = 0;
  /// The driver broke the protocol: DEVICE_NEEDS_RESET, one rate-limited log line, no more kicks until the reset.
  virtual void broken(std::string_view what) noexcept = 0;
  /// The drain is done: nothing is in flight.
  virtual void drained() noexcept = 0;

 protected:
  mutable Mutex mutex_;
  DevicePhase phase_ GUARDED_BY(mutex_) = DevicePhase::Idle;
};

/// A feature's bit in words, for errors.
struct FeatureText {
  std::string_view name{};    ///< As the specification has it: "VIRTIO_NET_F_MTU".
  std::string_view remedy{};  ///< How a device comes to offer it, as an imperative sentence.
};

class VirtioDevice {
 public:
  VirtioDevice() = default;
  VirtioDevice(const VirtioDevice&) = delete;
  VirtioDevice& operator=(const VirtioDevice&) = delete;
  virtual ~VirtioDevice() = default;

  /// Tells the device its transport, which outlives its use. Once, before anything else.
  virtual void connect(DeviceHost& host) noexcept { host_ = &host; }

  // --- What it is: constant, any thread

  /// VIRTIO_ID_BLOCK...
  [[nodiscard]] virtual std::uint32_t type() const noexcept = 0;
  /// For log lines: "drive rootfs".
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  /// Feature bits of this type of device; the transport adds those of the ring and of virtio itself.
  [[nodiscard]] virtual std::uint64_t features() const noexcept = 0;
  /// What a bit of features() is called, also where it is not offered here. Empty where there is nothing to say.
  [[nodiscard]] virtual FeatureText feature_text(unsigned /*bit*/) const noexcept { return {}; }
  /// The maximum size of each queue: powers of two.
  [[nodiscard]] virtual std::span<const std::uint16_t> queue_sizes() const noexcept = 0;

  // --- Control path: under the lock

  /// A load from the configuration space; what lies behind its end reads as zero.
  virtual void read_config(std::uint64_t offset, std::span<std::byte> data) const noexcept = 0;
  /// A store to it; most devices have nothing there that a driver may write.
  virtual void write_config(std::uint64_t /*offset*/, std::span<const std::byte> /*data*/) noexcept {}

  /// Before activate(), without the lock, so that nobody waits for it but the vCPU that asked: what the host has to do
  /// for a driver that has accepted `features`, and may wait for. Neither reset() nor another prepare() meanwhile.
  virtual void prepare(std::uint64_t /*features*/) noexcept {}
  /// DRIVER_OK: the driver has accepted `features`, and set up the queues that are ready. Any thread, so nothing may
  /// be submitted here: on_kick() follows for every ready queue, on the loop's thread. `queues` stay where they are.
  virtual void activate(std::uint64_t features, std::span<VirtQueue> queues) noexcept = 0;
  /// Reset: as made. Nothing is in flight. Any thread.
  virtual void reset() noexcept = 0;

  // --- Data path: under the lock, on the loop's thread

  /// The driver has offered something in `queue` (or may have).
  virtual void on_kick(unsigned queue) noexcept = 0;
  /// Take no more chains and let what is in flight come back soon (cancelling what could wait for ever); then say
  /// drained(), perhaps at once. Ends with reset() or undrain().
  virtual void drain() noexcept = 0;
  /// Takes chains again after drain(); the driver notices nothing. on_kick() follows for every queue.
  virtual void undrain() noexcept = 0;

 protected:
  [[nodiscard]] DeviceHost& host() noexcept { return *host_; }
  /// The device's lock, which its members are guarded by.
  [[nodiscard]] Mutex& mutex() const noexcept RETURN_CAPABILITY(host_->mutex()) { return host_->mutex(); }
  /// What the transport calls begins with this, for clang: it calls with the lock held, which it knows by another name.
  void has_lock() const noexcept ASSERT_CAPABILITY(mutex()) {}
  [[nodiscard]] bool is(DevicePhase phase) const noexcept REQUIRES(mutex()) { return host_->phase() == phase; }
  /// read_config() of a device whose configuration space is laid out as `Space`.
  template <typename Space>
  static void read_space(const Space& space, std::uint64_t offset, std::span<std::byte> data) noexcept {
    std::ranges::fill(data, std::byte{0});
    if (offset >= sizeof space) return;
    std::memcpy(data.data(), reinterpret_cast<const std::byte*>(&space) + offset,
                std::min<std::size_t>(data.size(), sizeof space - offset));
  }

 private:
  DeviceHost* host_ = nullptr;
};

}  // namespace mayfly
