#pragma once

#include "tests/support/run_until.h"
#include "virtio/device.h"
#include "virtio/ring_abi.h"
#include "virtio/service.h"
#include "vmm/io/event_loop.h"

#include <cstring>
#include <deque>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

/// A guest's driver, for tests of queues and devices without KVM.
///
///   FakeMemory ram;
///   FakeQueue driver{ram, 8};
///   VirtQueue queue{ram.memory(), 8};
///   driver.enable(queue);
///   const GuestAddress buffer = ram.put(text);
///   driver.offer({{buffer, 5, false}, {ram.room(512), 512, true}});
///   ... let the device work ...
///   EXPECT_EQ(driver.next_used()->length, 512);
namespace mayfly::testing {

/// RAM, handed out piece by piece.
class FakeMemory {
 public:
  explicit FakeMemory(std::uint64_t size_mib = 16) : memory_(make(size_mib)) {}
  [[nodiscard]] const GuestMemory& memory() const noexcept { return memory_; }
  /// Zeroed room, at least 16-byte aligned.
  GuestAddress room(std::uint64_t length, std::uint64_t alignment = 16) {
    next_ = (next_ + alignment - 1) & ~(alignment - 1);
    const GuestAddress at{next_};
    next_ += length;
    if (!memory_.bytes(at, length)) throw std::runtime_error("the fake guest is out of memory");
    return at;
  }
  GuestAddress put(std::span<const std::byte> bytes) {
    const GuestAddress at = room(bytes.size());
    (void)memory_.write(at, bytes);
    return at;
  }
  template <typename T>
  GuestAddress put_value(const T& value) {
    return put(std::as_bytes(std::span{&value, 1}));
  }
  [[nodiscard]] std::span<std::byte> bytes(GuestAddress at, std::uint64_t length) const {
    return memory_.bytes(at, length).value();
  }
  [[nodiscard]] std::uint64_t end() const { return memory_.low_end().value; }

 private:
  static GuestMemory make(std::uint64_t size_mib) {
    auto memory = GuestMemory::create({.size_mib = size_mib});
    if (!memory) throw std::runtime_error(memory.error().message);
    return std::move(*memory);
  }
  GuestMemory memory_;
  std::uint64_t next_ = 0x1000;
};

/// One piece of a chain.
struct FakeBuffer {
  GuestAddress at;
  std::uint32_t length;
  bool writable;
};

/// The driver's side of a split queue. A well-behaved driver uses offer() and next_used(); a hostile one reaches into
/// the parts.
class FakeQueue {
 public:
  FakeQueue(FakeMemory& ram, std::uint16_t size)
      : ram_(ram),
        size_(size),
        descriptors_at_(ram.room(16ULL * size)),
        available_at_(ram.room(6 + 2ULL * size)),
        used_at_(ram.room(6 + 8ULL * size)) {
    for (std::uint16_t i = 0; i < size; ++i) free_.push_back(i);
  }

  void fill(QueueState& registers) const {
    registers.size = size_;
    registers.descriptors = descriptors_at_;
    registers.available = available_at_;
    registers.used = used_at_;
  }
  void enable(VirtQueue& queue, bool event_index = false) {
    fill(queue.registers());
    if (auto enabled = queue.enable(event_index); !enabled) throw std::runtime_error(std::string{enabled.error().what});
  }

  /// Writes a chain of descriptors and offers it; its head.
  std::uint16_t offer(std::vector<FakeBuffer> buffers) {
    const std::vector<std::uint16_t> taken = take_descriptors(buffers.size());
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      descriptor(taken[i]) = describe(buffers[i], last ? std::uint16_t{0} : taken[i + 1], !last);
    }
    chains_.at(taken.front()) = taken;
    offer_head(taken.front());
    return taken.front();
  }
  /// The same through an indirect table.
  std::uint16_t offer_indirect(std::vector<FakeBuffer> buffers) {
    const GuestAddress table = ram_.room(16 * buffers.size());
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      const ring_abi::Descriptor entry = describe(buffers[i], static_cast<std::uint16_t>(last ? 0 : i + 1), !last);
      std::memcpy(ram_.bytes({table.value + 16 * i}, 16).data(), &entry, 16);
    }
    const std::vector<std::uint16_t> taken = take_descriptors(1);
    descriptor(taken.front()) = {.address = table.value,
                                 .length = static_cast<std::uint32_t>(16 * buffers.size()),
                                 .flags = ring_abi::kIndirect,
                                 .next = 0};
    chains_.at(taken.front()) = taken;
    offer_head(taken.front());
    return taken.front();
  }
  /// Puts a head into the available ring as it is, right or wrong.
  void offer_head(std::uint16_t head) {
    available_entry(static_cast<std::uint16_t>(available_index() % size_)) = head;
    available_index() = static_cast<std::uint16_t>(available_index() + 1);
  }

  /// What the device returned next; its descriptors are free again.
  std::optional<ring_abi::UsedElement> next_used() {
    if (used_index() == next_used_) return std::nullopt;
    const ring_abi::UsedElement element = used_entry(static_cast<std::uint16_t>(next_used_ % size_));
    ++next_used_;
    if (element.id >= size_ || chains_.at(element.id).empty())
      throw std::runtime_error("the device returned a chain that was not offered");
    for (const std::uint16_t index : chains_.at(element.id)) free_.push_back(index);
    chains_.at(element.id).clear();
    return element;
  }

  // The parts, as they lie in memory
  [[nodiscard]] ring_abi::Descriptor& descriptor(std::uint16_t index) const {
    return at<ring_abi::Descriptor>({descriptors_at_.value + 16ULL * index});
  }
  [[nodiscard]] std::uint16_t& available_flags() const { return at<std::uint16_t>(available_at_); }
  [[nodiscard]] std::uint16_t& available_index() const { return at<std::uint16_t>({available_at_.value + 2}); }
  [[nodiscard]] std::uint16_t& available_entry(std::uint16_t slot) const {
    return at<std::uint16_t>({available_at_.value + 4 + 2ULL * slot});
  }
  /// used_event: when the driver wants an interrupt.
  [[nodiscard]] std::uint16_t& used_event() const {
    return at<std::uint16_t>({available_at_.value + 4 + 2ULL * size_});
  }
  [[nodiscard]] std::uint16_t& used_index() const { return at<std::uint16_t>({used_at_.value + 2}); }
  [[nodiscard]] ring_abi::UsedElement& used_entry(std::uint16_t slot) const {
    return at<ring_abi::UsedElement>({used_at_.value + 4 + 8ULL * slot});
  }
  /// avail_event: when the device wants a kick.
  [[nodiscard]] std::uint16_t& available_event() const {
    return at<std::uint16_t>({used_at_.value + 4 + 8ULL * size_});
  }
  [[nodiscard]] std::uint16_t size() const noexcept { return size_; }
  [[nodiscard]] std::size_t free_descriptors() const noexcept { return free_.size(); }
  [[nodiscard]] GuestAddress descriptors_at() const noexcept { return descriptors_at_; }

 private:
  template <typename T>
  [[nodiscard]] T& at(GuestAddress where) const {
    return *reinterpret_cast<T*>(ram_.bytes(where, sizeof(T)).data());
  }
  static ring_abi::Descriptor describe(const FakeBuffer& buffer, std::uint16_t next, bool has_next) {
    return {.address = buffer.at.value,
            .length = buffer.length,
            .flags =
                static_cast<std::uint16_t>((buffer.writable ? ring_abi::kWrite : 0) | (has_next ? ring_abi::kNext : 0)),
            .next = next};
  }
  std::vector<std::uint16_t> take_descriptors(std::size_t count) {
    if (free_.size() < count) throw std::runtime_error("the fake driver is out of descriptors");
    std::vector<std::uint16_t> taken{free_.begin(), free_.begin() + static_cast<std::ptrdiff_t>(count)};
    free_.erase(free_.begin(), free_.begin() + static_cast<std::ptrdiff_t>(count));
    return taken;
  }

  FakeMemory& ram_;
  std::uint16_t size_;
  GuestAddress descriptors_at_, available_at_, used_at_;
  std::deque<std::uint16_t> free_;
  std::vector<std::vector<std::uint16_t>> chains_ = std::vector<std::vector<std::uint16_t>>(32768);
  std::uint16_t next_used_ = 0;
};

/// A transport that only remembers: for tests of a device by itself, on a real ring. used() queues are published at
/// the round's end, as in a machine.
class FakeHost final : public DeviceHost, private VirtioService::Client {
 public:
  FakeHost(EventLoop& loop, VirtioDevice& device, const GuestMemory& memory) : service_(loop), device_(device) {
    for (const std::uint16_t size : device.queue_sizes()) queues_.emplace_back(memory, size);
    device.connect(*this);
  }
  [[nodiscard]] std::vector<VirtQueue>& queues() noexcept { return queues_; }
  void activate(std::uint64_t features) {
    device_.prepare(features);
    const MutexLock held{mutex_};
    phase_ = DevicePhase::Active;
    device_.activate(features, queues_);
  }
  void kick(unsigned queue) {
    const MutexLock held{mutex_};
    if (phase_ == DevicePhase::Active) device_.on_kick(queue);
  }
  /// Serves the ring until `reached` (loop's thread, so nothing else can happen meanwhile).
  template <typename Reached>
  void serve_until(Reached reached) {
    publish_used();
    if (!reached()) run_until(service_.loop(), reached);
  }
  /// Quiesces the device and waits for it.
  void drain() {
    begin_drain();
    serve_until([this] { return is_drained(); });
  }
  void begin_drain() {
    const MutexLock held{mutex_};
    if (phase_ == DevicePhase::Drained) return;
    phase_ = DevicePhase::Draining;
    device_.drain();
  }
  [[nodiscard]] bool is_drained() const {
    const MutexLock held{mutex_};
    return phase_ == DevicePhase::Drained;
  }
  void undrain() {
    const MutexLock held{mutex_};
    phase_ = faults.empty() ? DevicePhase::Active : DevicePhase::Broken;
    device_.undrain();
  }
  void reset() {
    drain();
    const MutexLock held{mutex_};
    device_.reset();
    phase_ = DevicePhase::Idle;
    for (VirtQueue& queue : queues_) queue.reset();
  }

  void used(unsigned /*queue*/) noexcept override { service_.publish_later(*this); }
  void config_changed() noexcept override { ++config_changes; }
  void broken(std::string_view what) noexcept override REQUIRES(mutex_) {
    faults.emplace_back(what);
    if (phase_ == DevicePhase::Active) phase_ = DevicePhase::Broken;
  }
  void drained() noexcept override REQUIRES(mutex_) {
    if (phase_ == DevicePhase::Draining) phase_ = DevicePhase::Drained;
  }

  int interrupts = 0;
  int config_changes = 0;
  std::vector<std::string> faults;

 private:
  void publish_used() noexcept override {
    const MutexLock held{mutex_};
    for (VirtQueue& queue : queues_)
      if (queue.ready() && queue.publish()) ++interrupts;
  }
  Found busy_poll() noexcept override { return Found::Nothing; }
  void stop_polling() noexcept override {}

  VirtioService service_;
  VirtioDevice& device_;
  std::vector<VirtQueue> queues_;
};

}  // namespace mayfly::testing
