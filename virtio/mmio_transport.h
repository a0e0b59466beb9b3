#pragma once

#include "virtio/device.h"
#include "virtio/mmio_transport_state.h"
#include "virtio/service.h"
#include "vmm/base/error.h"
#include "vmm/base/log.h"
#include "vmm/base/metrics.h"
#include "vmm/base/owned_fd.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/interrupt.h"

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <vector>

/// The registers of a virtio device in memory (virtio 1.2, 4.2), and its way between guest and loop.
///
///   auto transport = MmioTransport::create(device, context);
///   mmio.attach("virtio-blk rootfs", window.base.value, window.size, **transport);
///   vm.attach_kick(window.base + kQueueNotify, queue, (*transport)->kick_fd(queue));   // for each queue
///   vm.attach_interrupt(window.gsi, (*transport)->interrupt_fd());
///   (*transport)->start();
///
/// A kick comes as a write to an event descriptor that KVM makes without leaving the kernel; an interrupt leaves as
/// one (VirtioService). The interrupt's line is an edge: the driver acknowledges
/// in InterruptStatus, and an edge that comes while its handler runs makes the handler run again, so nothing is lost,
/// and no end of interrupt has to leave KVM.
namespace mayfly {

inline constexpr std::uint64_t kMmioWindowSize = 0x1000;
/// Where a driver writes the number of a queue that it kicks (4.2.2).
inline constexpr std::uint64_t kQueueNotifyOffset = 0x050;

class MmioTransport final : public BusDevice, public DeviceHost, public InterruptSource, private VirtioService::Client {
 public:
  struct TransportContext {
    const GuestMemory& memory;
    VirtioService& service;
    Log& log;
    VirtioMetrics& metrics;
    /// The interrupt line's other end, where it has one: KVM sends to the IOAPIC alone.
    std::optional<InterruptLine> pic_line{};
  };

  /// Makes the event descriptors. `device` outlives the transport and its use. Errors: the host gives no descriptors.
  [[nodiscard]] static Result<std::unique_ptr<MmioTransport>> create(VirtioDevice& device,
                                                                     const TransportContext& context);
  ~MmioTransport() override;

  [[nodiscard]] std::size_t queue_count() const noexcept { return kicks_.size() - 1; }
  [[nodiscard]] int kick_fd(std::size_t queue) const noexcept { return kicks_[queue]->fd.get(); }
  [[nodiscard]] int interrupt_fd() const noexcept { return interrupt_fd_.get(); }

  /// Begins to listen for kicks. Loop's thread, once, before the vCPUs run.
  void start();
  /// Stops the device between two requests, for a snapshot. `drained` follows once, when nothing is in flight any more,
  /// in a task of its own; at once where the device is not active; not after undrain(). Loop's thread.
  void drain(std::function<void()> drained);
  /// Goes on as if nothing had been; also before the device has drained.
  void undrain();
  [[nodiscard]] bool is_drained() const;

  // BusDevice: vCPU threads
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

  // InterruptSource: any thread, without the lock
  void interrupt_again() noexcept override;

  // DeviceHost: the loop's thread, under the lock
  void used(unsigned queue) noexcept override REQUIRES(mutex_);
  void config_changed() noexcept override REQUIRES(mutex_);
  void broken(std::string_view what) noexcept override REQUIRES(mutex_);
  void drained() noexcept override REQUIRES(mutex_);

  /// The configuration space is not what it was in the state that was restored.
  void announce_config();

  /// Quiesced, or never started.
  [[nodiscard]] MmioTransportState state() const;
  /// Forgets its driver, as a reset does, and what was due for it; the device is to be restored next, then the transport.
  /// Quiesced, or never started; no vCPU runs. Loop's thread.
  void forget_driver();
  /// Sends the interrupt again that a restored driver has not acknowledged: whether it had reached the vCPU is not known.
  /// start() does so, too.
  void interrupt_unacknowledged() noexcept;
  /// As made, or after forget_driver(). Error: a queue that does not lie in memory; another number of queues; a feature
  /// that the driver has accepted and this device does not offer (another host's kernel, another configuration).
  [[nodiscard]] Status restore(const MmioTransportState& state);

 private:
  /// One event descriptor that the ring watches for ever. Nobody reads it: each write to it completes a multishot poll,
  /// where a read would have to be posted again for the next one.
  struct Kick final : Operation {
    Kick(MmioTransport& owner_in, unsigned index_in) noexcept : owner(owner_in), index(index_in) {}
    void on_complete(int result, bool more) noexcept override;
    void listen();
    void kick() noexcept;
    MmioTransport& owner;
    unsigned index;  ///< The queue; queue_count() is the transport's own.
    OwnedFd fd;
  };

  MmioTransport(VirtioDevice& device, const TransportContext& context);

  // Registers, under the lock
  [[nodiscard]] std::uint32_t read_register(std::uint64_t offset) const noexcept REQUIRES(mutex_);
  void write_register(std::uint64_t offset, std::uint32_t value) REQUIRES(mutex_);
  void write_queue_register(std::uint64_t offset, std::uint32_t value) REQUIRES(mutex_);
  void write_status(std::uint32_t value) REQUIRES(mutex_);
  /// DRIVER_OK: with the lock given away while the host prepares, as others would wait for more than this device.
  void start_device() REQUIRES(mutex_);
  void set_queue_ready(VirtQueue& queue, bool ready) REQUIRES(mutex_);
  [[nodiscard]] VirtQueue* selected_queue() noexcept REQUIRES(mutex_);
  [[nodiscard]] std::uint64_t offered_features() const noexcept;
  [[nodiscard]] Status check_features(const MmioTransportState& state) const;
  void reset() REQUIRES(mutex_);
  /// The device is drained or idle.
  void clear() REQUIRES(mutex_);
  /// On a vCPU's thread: waits until the loop has drained the device. Returns with the lock held and the device still
  /// drained, whatever other vCPUs do with it meanwhile.
  void wait_until_drained() REQUIRES(mutex_);
  void ignore(std::string_view what) noexcept;
  void fail_protocol(std::string_view what) noexcept REQUIRES(mutex_);
  /// The phase of a device that has a driver, and is not drained.
  [[nodiscard]] DevicePhase working_phase() const noexcept REQUIRES(mutex_);
  void begin_drain() noexcept REQUIRES(mutex_);

  // The loop's side
  void serve_kick(unsigned index);
  void publish_used() noexcept override;
  Found busy_poll() noexcept override;
  void stop_polling() noexcept override;
  /// Lets the device look at a queue; how many chains it took.
  std::uint16_t serve_queue(unsigned index) noexcept REQUIRES(mutex_);
  void publish() noexcept REQUIRES(mutex_);
  void interrupt(std::uint32_t cause) noexcept;
  void kick_all() noexcept REQUIRES(mutex_);
  /// Drained, as if nothing had been.
  void reactivate() noexcept REQUIRES(mutex_);
  [[nodiscard]] bool status_has(std::uint32_t bits) const noexcept REQUIRES(mutex_) { return (status_ & bits) == bits; }

  VirtioDevice& device_;
  TransportContext context_;
  std::vector<std::unique_ptr<Kick>> kicks_;  // one a queue, and the transport's own
  OwnedFd interrupt_fd_;
  LogRate log_rate_;

  ConditionVariable phase_changed_;
  std::uint64_t drains_ GUARDED_BY(mutex_) = 0;   // how many have ended: what a vCPU waits for
  bool drain_wanted_ GUARDED_BY(mutex_) = false;  // a vCPU waits for it
  bool undrain_when_drained_ GUARDED_BY(mutex_) = false;
  std::function<void()> drained_;  // loop's thread
  std::uint64_t turn_ = 0;         // loop's thread: of drained_, by which a task tells whether it is still the one
  std::uint32_t device_features_select_ GUARDED_BY(mutex_) = 0;
  std::uint32_t driver_features_select_ GUARDED_BY(mutex_) = 0;
  std::uint64_t driver_features_ GUARDED_BY(mutex_) = 0;
  std::uint32_t queue_select_ GUARDED_BY(mutex_) = 0;
  std::uint32_t status_ GUARDED_BY(mutex_) = 0;
  std::uint32_t config_generation_ GUARDED_BY(mutex_) = 0;
  std::vector<VirtQueue> queues_ GUARDED_BY(mutex_);
  std::vector<char> used_
      GUARDED_BY(mutex_);  // queues with something to publish; char: vector<bool> has no plain elements
  std::atomic<std::uint32_t> interrupt_status_{0};  // set by the loop, cleared by the driver
};

}  // namespace mayfly
