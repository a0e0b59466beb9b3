#include "virtio/mmio_transport.h"

#include "virtio/ring_abi.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace mayfly {
namespace {

// Values of the read-only registers (virtio 1.2, 4.2.2). The vendor's id is free to choose.
constexpr std::uint32_t kMagic = 0x7472'6976;  // "virt"
constexpr std::uint32_t kVersion = 2;
constexpr std::uint32_t kVendor = 0x594C'464D;  // "MFLY"

/// What every device of ours has from its queues and its transport.
constexpr std::uint64_t kRingFeatures =
    1ULL << VIRTIO_F_VERSION_1 | 1ULL << ring_abi::kIndirectDescriptors | 1ULL << ring_abi::kEventIndex;

/// The driver's steps (3.1.1), each of which needs those before it.
constexpr std::uint32_t kDriverSteps =
    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

/// Up to so many chains in a kick, a driver is taken for one that waits for each.
constexpr std::uint16_t kFewChains = 2;

/// Event descriptors are counters; one write of this kicks.
constexpr std::uint64_t kOne = 1;

void set_half(std::uint64_t& whole, bool high, std::uint32_t value) noexcept {
  const unsigned shift = high ? 32 : 0;
  whole = (whole & ~(std::uint64_t{UINT32_MAX} << shift)) | std::uint64_t{value} << shift;
}

/// 4.2.2.2: registers are read and written as aligned words of 32 bits.
bool is_word(std::uint64_t offset, std::size_t length) noexcept {
  return length == sizeof(std::uint32_t) && offset % sizeof(std::uint32_t) == 0;
}

}  // namespace

// --- Construction ----------------------------------------------------------------------------------------------------

MmioTransport::MmioTransport(VirtioDevice& device, const TransportContext& context)
    : device_(device), context_(context) {
  for (const std::uint16_t size : device.queue_sizes()) queues_.emplace_back(context.memory, size);
  used_.resize(queues_.size());
  device.connect(*this);
}

MmioTransport::~MmioTransport() { context_.service.forget(*this); }

Result<std::unique_ptr<MmioTransport>> MmioTransport::create(VirtioDevice& device, const TransportContext& context) {
  std::unique_ptr<MmioTransport> transport{new MmioTransport{device, context}};
  const auto make_event = [] { return OwnedFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)}; };
  for (unsigned index = 0; index <= device.queue_sizes().size(); ++index) {
    auto kick = std::make_unique<Kick>(*transport, index);
    kick->fd = make_event();
    if (!kick->fd) return fail_errno(ErrorKind::System, "{}: cannot make an event descriptor", device.name());
    transport->kicks_.push_back(std::move(kick));
  }
  transport->interrupt_fd_ = make_event();
  if (!transport->interrupt_fd_)
    return fail_errno(ErrorKind::System, "{}: cannot make an event descriptor", device.name());
  return transport;
}

void MmioTransport::start() {
  for (const auto& kick : kicks_) kick->listen();
  interrupt_unacknowledged();
}

// --- Registers -------------------------------------------------------------------------------------------------------

void MmioTransport::read(std::uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  std::uint32_t value = 0;
  if (offset == VIRTIO_MMIO_INTERRUPT_STATUS) {
    value = interrupt_status_.load(std::memory_order_acquire);
  } else {
    const MutexLock lock{mutex_};
    if (offset >= VIRTIO_MMIO_CONFIG) return device_.read_config(offset - VIRTIO_MMIO_CONFIG, data);
    value = read_register(offset);
  }
  if (is_word(offset, data.size())) std::memcpy(data.data(), &value, sizeof value);
}

std::uint32_t MmioTransport::read_register(std::uint64_t offset) const noexcept {
  const VirtQueue* queue = const_cast<MmioTransport*>(this)->selected_queue();
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
      return kMagic;
    case VIRTIO_MMIO_VERSION:
      return kVersion;
    case VIRTIO_MMIO_DEVICE_ID:
      return device_.type();
    case VIRTIO_MMIO_VENDOR_ID:
      return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      return device_features_select_ > 1
                 ? 0
                 : static_cast<std::uint32_t>(offered_features() >> 32 * device_features_select_);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
      return queue == nullptr ? 0 : queue->maximum_size();
    case VIRTIO_MMIO_QUEUE_READY:
      return queue != nullptr && queue->ready() ? 1 : 0;
    case VIRTIO_MMIO_STATUS:
      return status_;
    case VIRTIO_MMIO_CONFIG_GENERATION:
      return config_generation_;
    case VIRTIO_MMIO_SHM_LEN_LOW:  // 4.2.2.1: a length of all ones says that there is no shared memory
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
      return UINT32_MAX;
    default:
      return 0;
  }
}

void MmioTransport::write(std::uint64_t offset, std::span<const std::byte> data) {
  std::uint32_t value = 0;
  std::memcpy(&value, data.data(), std::min(data.size(), sizeof value));
  const bool word = is_word(offset, data.size());
  // Every interrupt's handler comes here: it does not wait for the loop.
  if (word && offset == VIRTIO_MMIO_INTERRUPT_ACK) {
    interrupt_status_.fetch_and(~value, std::memory_order_acq_rel);
    return;
  }
  const MutexLock lock{mutex_};
  if (offset >= VIRTIO_MMIO_CONFIG)
    device_.write_config(offset - VIRTIO_MMIO_CONFIG, data);
  else if (word)
    write_register(offset, value);
  else
    ignore("a store to a register that is no aligned word of 32 bits");
}

void MmioTransport::write_register(std::uint64_t offset, std::uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
      device_features_select_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
      driver_features_select_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES:
      if (!status_has(VIRTIO_CONFIG_S_DRIVER) || status_has(VIRTIO_CONFIG_S_FEATURES_OK))
        return ignore("features were written outside their step");
      if (driver_features_select_ > 1) return;
      return set_half(driver_features_, driver_features_select_ == 1, value);
    case VIRTIO_MMIO_QUEUE_SEL:
      queue_select_ = value;
      return;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
      // KVM takes kicks of queues that exist by itself; here come those of others, and all where it cannot.
      if (value >= queues_.size()) return ignore("a kick for a queue that is not there");
      return kicks_[value]->kick();
    case VIRTIO_MMIO_STATUS:
      return write_status(value);
    default:
      return write_queue_register(offset, value);
  }
}

void MmioTransport::write_queue_register(std::uint64_t offset, std::uint32_t value) {
  VirtQueue* queue = selected_queue();
  if (queue == nullptr) return ignore("a register of a queue that is not there");
  if (offset == VIRTIO_MMIO_QUEUE_READY) return set_queue_ready(*queue, value == 1);
  if (queue->ready() || !status_has(VIRTIO_CONFIG_S_FEATURES_OK))
    return ignore("a queue was set up while ready, or before the features");
  QueueState& registers = queue->registers();
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
      // A size that does not fit 16 bits is none; QueueReady says so.
      registers.size = value <= UINT16_MAX ? static_cast<std::uint16_t>(value) : std::uint16_t{0};
      return;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
      return set_half(registers.descriptors.value, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
      return set_half(registers.available.value, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
      return set_half(registers.used.value, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
    default:
      return ignore("a store to a register that cannot be written");
  }
}

void MmioTransport::set_queue_ready(VirtQueue& queue, bool ready) {
  if (!ready) {
    if (!queue.ready()) return;
    // 4.2.2.2: the driver waits for 0 before it takes the memory back. One queue cannot be told from the device here,
    // so all of it comes to rest, and the other queues go on afterwards.
    wait_until_drained();
    queue.reset();
    if (phase_ == DevicePhase::Drained) reactivate();
    return;
  }
  if (queue.ready()) return;
  if (!status_has(VIRTIO_CONFIG_S_FEATURES_OK) || status_has(VIRTIO_CONFIG_S_DRIVER_OK))
    return ignore("a queue was made ready outside its step");
  const bool event_index = (driver_features_ & 1ULL << ring_abi::kEventIndex) != 0;
  if (auto enabled = queue.enable(event_index); !enabled) fail_protocol(enabled.error().what);
}

// --- The device's life (2.1, 3.1) ------------------------------------------------------------------------------------

void MmioTransport::write_status(std::uint32_t value) {
  if (value == 0) return reset();
  // 2.1.1: a driver must not clear a bit; one that does has lost its way, and gets what it asks for by a reset alone.
  if ((status_ & kDriverSteps & ~value) != 0) return ignore("a status bit was cleared without a reset");
  std::uint32_t next = status_ | (value & (kDriverSteps | VIRTIO_CONFIG_S_FAILED));
  if ((next & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && !status_has(VIRTIO_CONFIG_S_FEATURES_OK)) {
    const bool known = (driver_features_ & ~offered_features()) == 0;
    const bool modern = (driver_features_ & 1ULL << VIRTIO_F_VERSION_1) != 0;
    // 2.1.1: the bit stays clear where the device does not accept; a driver reads it back.
    if (!known || !modern || !status_has(VIRTIO_CONFIG_S_DRIVER))
      next &= ~std::uint32_t{VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK};
  }
  const bool starts = (next & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && !status_has(VIRTIO_CONFIG_S_DRIVER_OK);
  if (starts && (next & VIRTIO_CONFIG_S_FEATURES_OK) == 0) {
    status_ = next & ~std::uint32_t{VIRTIO_CONFIG_S_DRIVER_OK};
    return ignore("DRIVER_OK without FEATURES_OK");
  }
  status_ = next;
  if (starts && (status_ & VIRTIO_CONFIG_S_NEEDS_RESET) == 0) start_device();
}

void MmioTransport::start_device() {
  // Until it is Active: DRIVER_OK refuses other stores to features, queues and Status, and resets wait.
  phase_ = DevicePhase::Starting;
  const std::uint64_t features = driver_features_;
  mutex_.unlock();
  device_.prepare(features);
  mutex_.lock();
  phase_ = working_phase();
  device_.activate(features, queues_);
  phase_changed_.notify_all();
  // The device looks at all its queues once: what was offered before DRIVER_OK is served too.
  kick_all();
}

void MmioTransport::reset() {
  wait_until_drained();
  clear();
}

void MmioTransport::clear() {
  device_.reset();
  for (VirtQueue& queue : queues_) queue.reset();
  std::ranges::fill(used_, char{0});
  phase_ = DevicePhase::Idle;
  status_ = 0;
  driver_features_ = 0;
  device_features_select_ = driver_features_select_ = queue_select_ = 0;
  interrupt_status_.store(0, std::memory_order_release);
}

void MmioTransport::wait_until_drained() {
  // Another vCPU that waited for the same drain may have let the device go on before this one has the lock again. So
  // this waits for the end of a drain, not for a state that others leave, and asks anew where it came too late.
  while (phase_ != DevicePhase::Idle && phase_ != DevicePhase::Drained) {
    if (phase_ == DevicePhase::Starting) {
      phase_changed_.wait(mutex_);
      continue;
    }
    if (phase_ != DevicePhase::Draining) {
      drain_wanted_ = true;
      kicks_.back()->kick();
    }
    for (const std::uint64_t before = drains_; drains_ == before;) phase_changed_.wait(mutex_);
  }
}

VirtQueue* MmioTransport::selected_queue() noexcept {
  return queue_select_ < queues_.size() ? &queues_[queue_select_] : nullptr;
}

std::uint64_t MmioTransport::offered_features() const noexcept { return device_.features() | kRingFeatures; }

// --- What is wrong ---------------------------------------------------------------------------------------------------

void MmioTransport::ignore(std::string_view what) noexcept {
  context_.metrics.driver_errors.add();
  if (log_rate_.allow()) context_.log.warning("{}: ignored: {}", device_.name(), what);
}

void MmioTransport::fail_protocol(std::string_view what) noexcept {
  context_.metrics.needs_reset.add();
  if (log_rate_.allow()) context_.log.warning("{}: stopped until its driver resets it: {}", device_.name(), what);
  status_ |= VIRTIO_CONFIG_S_NEEDS_RESET;
  if (phase_ == DevicePhase::Active) phase_ = DevicePhase::Broken;
}

void MmioTransport::broken(std::string_view what) noexcept {
  if ((status_ & VIRTIO_CONFIG_S_NEEDS_RESET) != 0) return;
  fail_protocol(what);
  // 2.1.2: a driver that is running is told by a configuration change.
  config_changed();
}

// --- The loop's side -------------------------------------------------------------------------------------------------

void MmioTransport::Kick::listen() { owner.context_.service.loop().poll(fd.get(), POLLIN, *this); }

void MmioTransport::Kick::kick() noexcept {
  // Full only after 2^64 - 2 kicks.
  (void)::eventfd_write(fd.get(), kOne);
}

void MmioTransport::Kick::on_complete(int result, bool more) noexcept {
  if (result == -ECANCELED) return;  // the loop ends
  owner.serve_kick(index);
  if (!more) listen();  // the kernel may end a multishot poll at any time
}

void MmioTransport::serve_kick(unsigned index) {
  const MutexLock lock{mutex_};
  if (index == queues_.size()) {
    if (std::exchange(drain_wanted_, false) && phase_ == working_phase()) begin_drain();
    return;
  }
  context_.metrics.kicks.add();
  // Requests that come one by one are likely to go on so, and a kick for each would be dear. No kick is asked for until
  // that is known.
  VirtQueue& queue = queues_[index];
  queue.set_polled(true);
  const std::uint16_t taken = serve_queue(index);
  if (taken > 0 && taken <= kFewChains) return context_.service.poll_before_wait(*this);
  queue.set_polled(false);
  if (queue.has_more()) serve_queue(index);
}

std::uint16_t MmioTransport::serve_queue(unsigned index) noexcept {
  VirtQueue& queue = queues_[index];
  if (phase_ != DevicePhase::Active || !queue.ready()) return 0;
  const std::uint16_t before = queue.taken();
  device_.on_kick(index);
  return static_cast<std::uint16_t>(queue.taken() - before);
}

VirtioService::Client::Found MmioTransport::busy_poll() noexcept {
  const MutexLock lock{mutex_};
  Found found = Found::Nothing;
  for (unsigned index = 0; index < queues_.size(); ++index) {
    if (!queues_[index].has_more()) continue;
    const std::uint16_t taken = serve_queue(index);
    if (taken > kFewChains) return Found::Plenty;
    if (taken > 0) found = Found::Little;
  }
  return found;
}

void MmioTransport::stop_polling() noexcept {
  const MutexLock lock{mutex_};
  for (unsigned index = 0; index < queues_.size(); ++index) {
    queues_[index].set_polled(false);
    if (queues_[index].has_more()) serve_queue(index);
  }
}

void MmioTransport::drain(std::function<void()> drained) {
  {
    const MutexLock lock{mutex_};
    undrain_when_drained_ = false;
    if (phase_ == working_phase() || phase_ == DevicePhase::Draining) {
      drained_ = std::move(drained);
      ++turn_;
      if (phase_ != DevicePhase::Draining) begin_drain();
      return;
    }
  }
  drained();
}

bool MmioTransport::is_drained() const {
  const MutexLock lock{mutex_};
  return phase_ == DevicePhase::Idle || phase_ == DevicePhase::Drained;
}

void MmioTransport::undrain() {
  const MutexLock lock{mutex_};
  drained_ = nullptr;
  if (phase_ == DevicePhase::Drained) reactivate();
  if (phase_ == DevicePhase::Draining) undrain_when_drained_ = true;
}

void MmioTransport::begin_drain() noexcept {
  phase_ = DevicePhase::Draining;
  device_.drain();
}

DevicePhase MmioTransport::working_phase() const noexcept {
  return status_has(VIRTIO_CONFIG_S_NEEDS_RESET) ? DevicePhase::Broken : DevicePhase::Active;
}

void MmioTransport::reactivate() noexcept {
  phase_ = working_phase();
  device_.undrain();
  kick_all();
}

void MmioTransport::drained() noexcept {
  if (phase_ != DevicePhase::Draining) return;
  publish();
  phase_ = DevicePhase::Drained;
  ++drains_;
  phase_changed_.notify_all();
  if (std::exchange(undrain_when_drained_, false)) reactivate();
  if (drained_)
    context_.service.loop().post([this, turn = turn_] {
      if (drained_ && turn == turn_) std::exchange(drained_, nullptr)();
    });
}

void MmioTransport::used(unsigned queue) noexcept {
  used_[queue] = 1;
  context_.service.publish_later(*this);
}

void MmioTransport::publish_used() noexcept {
  const MutexLock lock{mutex_};
  publish();
}

void MmioTransport::publish() noexcept {
  bool wanted = false;
  for (std::size_t i = 0; i < queues_.size(); ++i)
    if (std::exchange(used_[i], char{0}) != 0 && queues_[i].ready() && queues_[i].publish()) wanted = true;
  if (wanted) interrupt(VIRTIO_MMIO_INT_VRING);
}

void MmioTransport::config_changed() noexcept {
  ++config_generation_;
  if (status_has(VIRTIO_CONFIG_S_DRIVER_OK)) interrupt(VIRTIO_MMIO_INT_CONFIG);
}

void MmioTransport::interrupt(std::uint32_t cause) noexcept {
  interrupt_status_.fetch_or(cause, std::memory_order_acq_rel);
  if (context_.service.interrupt(interrupt_fd_.get())) context_.metrics.interrupts.add();
  if (context_.pic_line) context_.pic_line->pulse();
}

void MmioTransport::interrupt_again() noexcept {
  if (interrupt_status_.load(std::memory_order_acquire) == 0) return;
  // Not by the loop's ring: this is a vCPU's thread, and rare.
  if (::eventfd_write(interrupt_fd_.get(), kOne) == 0) context_.metrics.interrupts.add();
}

void MmioTransport::kick_all() noexcept {
  for (std::size_t i = 0; i < queues_.size(); ++i) kicks_[i]->kick();
}

}  // namespace mayfly
