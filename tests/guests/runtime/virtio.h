#pragma once

#include "runtime/processor.h"

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>

/// A small driver of virtio-mmio devices (virtio 1.2, 2.7 and 4.2): polling, split queues, no interrupts unless asked.
///
///   virtio::Device disk{0};                                  // the first window
///   disk.begin(virtio::kVersion1);                           // accepts features; fails where the device does not
///   virtio::Queue queue{disk, 0, {.memory = 0x40'0000}};
///   disk.start();
///   queue.offer({{header, 16, false}, {data, 512, true}, {status, 1, true}});
///   queue.kick();
///   const auto used = queue.wait();
namespace guest::virtio {

inline constexpr std::uint64_t kFirstWindow = 0xD000'0000;
inline constexpr std::uint64_t kWindowSize = 0x1000;

inline constexpr std::uint32_t kTypeNet = 1;
inline constexpr std::uint32_t kTypeBlock = 2;

inline constexpr std::uint64_t kEventIndex = 1ULL << 29;
inline constexpr std::uint64_t kIndirect = 1ULL << 28;
inline constexpr std::uint64_t kVersion1 = 1ULL << 32;

// Registers
inline constexpr std::uint64_t kDeviceId = 0x008;
inline constexpr std::uint64_t kQueueSelect = 0x030;
inline constexpr std::uint64_t kQueueMaximum = 0x034;
inline constexpr std::uint64_t kQueueSize = 0x038;
inline constexpr std::uint64_t kQueueReady = 0x044;
inline constexpr std::uint64_t kQueueNotify = 0x050;
inline constexpr std::uint64_t kInterruptStatus = 0x060;
inline constexpr std::uint64_t kInterruptAcknowledge = 0x064;
inline constexpr std::uint64_t kStatus = 0x070;
inline constexpr std::uint64_t kQueueDescriptors = 0x080;
inline constexpr std::uint64_t kQueueDriver = 0x090;
inline constexpr std::uint64_t kQueueDevice = 0x0A0;
inline constexpr std::uint64_t kConfig = 0x100;

inline constexpr std::uint32_t kNeedsReset = 0x40;

/// One device's window.
class Device {
 public:
  explicit Device(unsigned number) : window_(kFirstWindow + number * kWindowSize) {}
  [[nodiscard]] const Mmio& window() const { return window_; }
  [[nodiscard]] std::uint32_t type() const { return window_.read32(kDeviceId); }
  [[nodiscard]] std::uint32_t status() const { return window_.read32(kStatus); }
  [[nodiscard]] std::uint64_t offered() const;
  void reset() const { window_.write32(kStatus, 0); }
  /// Reset, ACKNOWLEDGE, DRIVER, FEATURES_OK with `features`; the guest fails where they are refused.
  void begin(std::uint64_t features);
  /// DRIVER_OK
  void start() const;
  [[nodiscard]] std::uint64_t features() const { return features_; }

 private:
  Mmio window_;
  std::uint64_t features_ = 0;
};

struct Descriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
};

struct Buffer {
  std::uint64_t address;
  std::uint32_t length;
  bool writable;
};

struct Used {
  std::uint32_t id;
  std::uint32_t length;
};

/// A queue whose parts lie in 16 KiB from `memory` on.
class Queue {
 public:
  static constexpr std::uint16_t kSize = 256;
  static constexpr std::uint64_t kBytes = 16 * 1024;
  struct Options {
    std::uint64_t memory = 0;
    std::uint16_t size = kSize;
    bool interrupts = false;
  };
  Queue(const Device& device, unsigned number, const Options& options);

  /// Writes a chain and offers it; its head. The chain's descriptors must be free: they come back by used().
  std::uint16_t offer(std::initializer_list<Buffer> buffers) {
    return offer(std::span{buffers.begin(), buffers.size()});
  }
  std::uint16_t offer(std::span<const Buffer> buffers);
  /// The same, with the chain in a table of its own at `table` (16 bytes a buffer), so that it takes one descriptor.
  /// Needs kIndirect. The table is the chain's until used() gives it back.
  std::uint16_t offer_indirect(std::uint64_t table, std::span<const Buffer> buffers);
  /// Kicks the device, where it wants that for what has been offered since the last kick.
  void kick();
  /// The next that the device returned, if any.
  std::optional<Used> used();
  /// Waits for it; the guest fails where patience ends.
  Used wait();
  /// The next used() that shall interrupt (with kEventIndex).
  void interrupt_after(std::uint16_t more);

  [[nodiscard]] std::uint16_t free_count() const { return free_count_; }
  [[nodiscard]] std::uint64_t kicks() const { return kicks_; }
  /// The parts themselves, for hostile guests.
  [[nodiscard]] volatile Descriptor& descriptor(std::uint16_t index) const;
  [[nodiscard]] volatile std::uint16_t& available_index() const;
  [[nodiscard]] volatile std::uint16_t& available_entry(std::uint16_t slot) const;

 private:
  void make_available(std::uint16_t head);
  [[nodiscard]] volatile std::uint16_t& available_word(std::uint64_t index) const {
    return memory_at<volatile std::uint16_t>(available_ + 2 * index);
  }
  Mmio window_;
  unsigned number_;
  std::uint16_t size_;
  bool event_index_;
  std::uint64_t descriptors_, available_, used_;
  std::array<std::uint16_t, kSize> free_{};
  std::array<std::uint16_t, kSize> lengths_{};  // of the chain at a head
  std::uint16_t free_count_ = 0;
  std::uint16_t next_available_ = 0, kicked_ = 0, next_used_ = 0;
  std::uint64_t kicks_ = 0;
};

}  // namespace guest::virtio
