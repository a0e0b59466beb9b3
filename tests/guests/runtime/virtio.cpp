#include "runtime/virtio.h"

#include "runtime/verdict.h"

namespace guest::virtio {
namespace {

constexpr std::uint64_t kDeviceFeatures = 0x010;
constexpr std::uint64_t kDeviceFeaturesSelect = 0x014;
constexpr std::uint64_t kDriverFeatures = 0x020;
constexpr std::uint64_t kDriverFeaturesSelect = 0x024;

constexpr std::uint32_t kAcknowledge = 1;
constexpr std::uint32_t kDriver = 2;
constexpr std::uint32_t kDriverOk = 4;
constexpr std::uint32_t kFeaturesOk = 8;

constexpr std::uint16_t kNext = 1;
constexpr std::uint16_t kWrite = 2;
constexpr std::uint16_t kTable = 4;
constexpr std::uint16_t kNoInterrupt = 1;
constexpr std::uint16_t kNoNotify = 1;

void write64(const Mmio& window, std::uint64_t offset, std::uint64_t value) {
  window.write32(offset, static_cast<std::uint32_t>(value));
  window.write32(offset + 4, static_cast<std::uint32_t>(value >> 32));
}

}  // namespace

std::uint64_t Device::offered() const {
  window_.write32(kDeviceFeaturesSelect, 0);
  const std::uint64_t low = window_.read32(kDeviceFeatures);
  window_.write32(kDeviceFeaturesSelect, 1);
  return low | std::uint64_t{window_.read32(kDeviceFeatures)} << 32;
}

void Device::begin(std::uint64_t features) {
  reset();
  expect_equal(status(), 0U, "a reset device's status is 0");
  window_.write32(kStatus, kAcknowledge);
  window_.write32(kStatus, kAcknowledge | kDriver);
  features_ = features;
  window_.write32(kDriverFeaturesSelect, 0);
  window_.write32(kDriverFeatures, static_cast<std::uint32_t>(features));
  window_.write32(kDriverFeaturesSelect, 1);
  window_.write32(kDriverFeatures, static_cast<std::uint32_t>(features >> 32));
  window_.write32(kStatus, kAcknowledge | kDriver | kFeaturesOk);
  expect((status() & kFeaturesOk) != 0, "the device accepts the features");
}

void Device::start() const { window_.write32(kStatus, kAcknowledge | kDriver | kFeaturesOk | kDriverOk); }

Queue::Queue(const Device& device, unsigned number, const Options& options)
    : window_(device.window()),
      number_(number),
      size_(options.size),
      event_index_((device.features() & kEventIndex) != 0),
      descriptors_(options.memory),
      available_(options.memory + 16ULL * kSize),
      used_(options.memory + 16ULL * kSize + 4096) {
  for (std::uint64_t at = options.memory; at < options.memory + kBytes; at += 8)
    memory_at<volatile std::uint64_t>(at) = 0;
  for (std::uint16_t i = 0; i < size_; ++i) free_[free_count_++] = static_cast<std::uint16_t>(size_ - 1 - i);
  if (!options.interrupts) {
    available_word(0) = kNoInterrupt;
    available_word(2U + size_) = 0x7FFF;  // used_event: far ahead
  }
  window_.write32(kQueueSelect, number);
  expect(window_.read32(kQueueMaximum) >= size_, "the queue is as large as the driver wants it");
  window_.write32(kQueueSize, size_);
  write64(window_, kQueueDescriptors, descriptors_);
  write64(window_, kQueueDriver, available_);
  write64(window_, kQueueDevice, used_);
  window_.write32(kQueueReady, 1);
  expect_equal(window_.read32(kQueueReady), 1U, "the queue is ready");
}

volatile Descriptor& Queue::descriptor(std::uint16_t index) const {
  return memory_at<volatile Descriptor>(descriptors_ + 16ULL * index);
}
volatile std::uint16_t& Queue::available_index() const { return available_word(1); }
volatile std::uint16_t& Queue::available_entry(std::uint16_t slot) const { return available_word(2U + slot); }

std::uint16_t Queue::offer(std::span<const Buffer> buffers) {
  expect(buffers.size() <= free_count_, "the driver has free descriptors");
  const std::uint16_t head = free_[free_count_ - 1];
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const std::uint16_t index = free_[--free_count_];
    const bool last = i + 1 == buffers.size();
    volatile Descriptor& entry = descriptor(index);
    entry.address = buffers[i].address;
    entry.length = buffers[i].length;
    entry.flags = static_cast<std::uint16_t>((buffers[i].writable ? kWrite : 0) | (last ? 0 : kNext));
    entry.next = last ? std::uint16_t{0} : free_[free_count_ - 1];
  }
  lengths_[head] = static_cast<std::uint16_t>(buffers.size());
  make_available(head);
  return head;
}

std::uint16_t Queue::offer_indirect(std::uint64_t table, std::span<const Buffer> buffers) {
  expect(free_count_ > 0, "the driver has a free descriptor");
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const bool last = i + 1 == buffers.size();
    auto& entry = memory_at<volatile Descriptor>(table + 16 * i);
    entry.address = buffers[i].address;
    entry.length = buffers[i].length;
    entry.flags = static_cast<std::uint16_t>((buffers[i].writable ? kWrite : 0) | (last ? 0 : kNext));
    entry.next = static_cast<std::uint16_t>(i + 1);
  }
  const std::uint16_t head = free_[--free_count_];
  volatile Descriptor& entry = descriptor(head);
  entry.address = table;
  entry.length = static_cast<std::uint32_t>(16 * buffers.size());
  entry.flags = kTable;
  entry.next = 0;
  lengths_[head] = 1;
  make_available(head);
  return head;
}

void Queue::make_available(std::uint16_t head) {
  available_entry(static_cast<std::uint16_t>(next_available_ % size_)) = head;
  store_barrier();
  available_index() = ++next_available_;
}

void Queue::kick() {
  full_barrier();
  const std::uint16_t before = kicked_;
  kicked_ = next_available_;
  if (event_index_) {
    const auto event = memory_at<volatile std::uint16_t>(used_ + 4 + 8ULL * size_);
    if (static_cast<std::uint16_t>(next_available_ - event - 1) >= static_cast<std::uint16_t>(next_available_ - before))
      return;
  } else if ((memory_at<volatile std::uint16_t>(used_) & kNoNotify) != 0) {
    return;
  }
  ++kicks_;
  window_.write32(kQueueNotify, number_);
}

std::optional<Used> Queue::used() {
  if (memory_at<volatile std::uint16_t>(used_ + 2) == next_used_) return std::nullopt;
  load_barrier();
  const std::uint64_t at = used_ + 4 + 8ULL * (next_used_ % size_);
  const Used element{memory_at<volatile std::uint32_t>(at), memory_at<volatile std::uint32_t>(at + 4)};
  ++next_used_;
  expect(element.id < size_ && lengths_[element.id] > 0, "the device returns a chain that was offered");
  auto index = static_cast<std::uint16_t>(element.id);
  for (std::uint16_t left = lengths_[element.id]; left > 0; --left) {
    free_[free_count_++] = index;
    index = descriptor(index).next;
  }
  lengths_[element.id] = 0;
  return element;
}

Used Queue::wait() {
  std::optional<Used> element;
  expect(wait_until([&] { return (element = used()).has_value(); }), "the device answers");
  return *element;
}

void Queue::interrupt_after(std::uint16_t more) {
  available_word(0) = 0;
  available_word(2U + size_) = static_cast<std::uint16_t>(next_used_ + more - 1);
  full_barrier();
}

}  // namespace guest::virtio
