#include "runtime/guest.h"
#include "runtime/interrupts.h"
#include "runtime/virtio.h"

/// Asks a drive for what the host's storage may never give, and may not wait for it.
///
/// Prints "stuck_drive ready", then waits by HLT for commands, one byte each:
///   o  offers `count` reads of a page each, and kicks; prints "offered"
///   k  kicks without an offer, and touches no memory of the queue; prints "kicked"
///   x  prints "resetting", resets the device, which waits for what is in flight, prints "reset ok"
///   d  waits until all is back that it has offered; prints "done"
/// With loop=1 it takes no commands: it starts the device, offers and resets, for ever.
/// With poll=1 it polls for commands.
/// Command line: count=16 loop=0 poll=0. The drive is the first device. The queue lies in the 16 KiB from 4 MiB on, the data
/// from 16 MiB on.
namespace {

using namespace guest;

constexpr std::uint64_t kQueueMemory = 0x40'0000;
constexpr std::uint64_t kHeaders = 0x41'0000;  // 32 bytes a request: header, status
constexpr std::uint64_t kStatusOffset = 24;
constexpr std::uint64_t kData = 0x100'0000;
constexpr std::uint32_t kPage = 4096;
constexpr std::uint64_t kSectorsPerPage = 8;
/// So far apart that no read-ahead of the host's makes one of several.
constexpr std::uint64_t kPagesApart = 61;
constexpr std::uint8_t kKeyVector = 0x44;

struct Header {
  std::uint32_t type;  // 0: a read
  std::uint32_t reserved;
  std::uint64_t sector;
};

class Drive {
 public:
  void start() {
    device_.begin(virtio::kVersion1);
    queue_.emplace(device_, 0, virtio::Queue::Options{.memory = kQueueMemory});
    device_.start();
  }
  void offer(std::uint64_t count) {
    const std::uint64_t pages = device_.window().read64(virtio::kConfig) / kSectorsPerPage;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t header = kHeaders + 32 * i;
      memory_at<volatile Header>(header).sector = i * kPagesApart % pages * kSectorsPerPage;
      queue_->offer({{header, 16, false}, {kData + i * kPage, kPage, true}, {header + kStatusOffset, 1, true}});
    }
    device_.window().write32(virtio::kQueueNotify, 0);
    offered_ += count;
  }
  void kick() const { device_.window().write32(virtio::kQueueNotify, 0); }
  void reset() {
    device_.reset();
    offered_ = 0;
  }
  void wait() {
    for (; offered_ > 0; --offered_)
      while (!queue_->used()) pause();  // for as long as it takes
  }

 private:
  virtio::Device device_{0};
  std::optional<virtio::Queue> queue_;
  std::uint64_t offered_ = 0;
};

void start_keys() {
  start_interrupts();
  io_apic::route(serial::kPin, {.vector = kKeyVector});
  out8(serial::kModemControl, serial::kGate);
  out8(serial::kInterruptEnable, serial::kReceiveInterrupt);
}

/// The count is taken first: a key that comes after the look at the port interrupts, and ends the halt.
char wait_for_key(bool polls) {
  for (;;) {
    const std::uint64_t seen = interrupt_count(kKeyVector);
    if ((in8(serial::kLineStatus) & serial::kDataReady) != 0) return static_cast<char>(in8(serial::kData));
    if (!polls) halt_for_interrupts(kKeyVector, seen + 1);
  }
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const std::uint64_t count = boot.number("count", 16);
  const bool polls = boot.number("poll", 0) != 0;
  static std::optional<Drive> drive;
  drive.emplace().start();
  start_keys();
  print("stuck_drive ready\n");
  while (boot.number("loop", 0) != 0) {
    drive->offer(count);
    drive->reset();
    drive->start();
  }
  for (;;) {
    switch (wait_for_key(polls)) {
      case 'o':
        drive->offer(count);
        print("offered\n");
        break;
      case 'k':
        drive->kick();
        print("kicked\n");
        break;
      case 'x':
        print("resetting\n");
        drive->reset();
        print("reset ok\n");
        break;
      case 'd':
        drive->wait();
        print("done\n");
        break;
      default:
        break;
    }
  }
}
