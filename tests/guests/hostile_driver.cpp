#include "runtime/guest.h"
#include "runtime/virtio.h"

/// A driver that breaks every rule on the first drive. After each crime the second drive still works, and the first one
/// does after a reset. Both drives hold what tests/integration/block_test.cpp writes: words that are their own offset.
namespace {

using guest::expect;
using guest::expect_equal;
using guest::print;
namespace virtio = guest::virtio;

constexpr std::uint64_t kVictimQueue = 0x40'0000;
constexpr std::uint64_t kWitnessQueue = 0x42'0000;
constexpr std::uint64_t kRequest = 0x44'0000;
constexpr std::uint64_t kStatusByte = 0x44'0040;
constexpr std::uint64_t kTable = 0x44'1000;
constexpr std::uint64_t kData = 0x80'0000;

constexpr std::uint16_t kNext = 1;
constexpr std::uint16_t kWrite = 2;
constexpr std::uint16_t kIndirect = 4;

struct Header {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};

/// A drive that is used as it should be.
class Drive {
 public:
  Drive(unsigned number, std::uint64_t queue_memory, std::uint64_t features = virtio::kEventIndex) : device_(number) {
    device_.begin(virtio::kVersion1 | features);
    queue_.emplace(device_, 0, virtio::Queue::Options{.memory = queue_memory});
    device_.start();
  }
  [[nodiscard]] const virtio::Device& device() const { return device_; }
  [[nodiscard]] virtio::Queue& queue() { return *queue_; }
  void write_header(std::uint32_t type, std::uint64_t sector) {
    guest::memory_at<volatile Header>(kRequest).type = type;
    guest::memory_at<volatile Header>(kRequest).sector = sector;
    guest::memory_at<volatile std::uint8_t>(kStatusByte) = 0xEE;
  }
  void check_works() {
    write_header(0, 9);
    queue_->offer({{kRequest, 16, false}, {kData, 512, true}, {kStatusByte, 1, true}});
    queue_->kick();
    (void)queue_->wait();
    expect_equal(guest::memory_at<volatile std::uint8_t>(kStatusByte), 0, "the drive answers");
    expect_equal(guest::memory_at<volatile std::uint64_t>(kData), 9 * 512, "with its data");
  }
  /// A descriptor, as it is.
  void set(std::uint16_t index, std::uint64_t address, std::uint32_t length, int flags, std::uint16_t next) {
    volatile virtio::Descriptor& entry = queue_->descriptor(index);
    entry.address = address;
    entry.length = length;
    entry.flags = static_cast<std::uint16_t>(flags);
    entry.next = next;
  }
  /// Offers a head without any bookkeeping, and kicks.
  void offer(std::uint16_t head, std::uint16_t index_step = 1) {
    queue_->available_entry(0) = head;
    guest::full_barrier();
    queue_->available_index() = index_step;
    guest::full_barrier();
    device_.window().write32(virtio::kQueueNotify, 0);
  }

 private:
  virtio::Device device_;
  std::optional<virtio::Queue> queue_;
};

Drive* witness;

void expect_needs_reset(const Drive& victim) {
  expect(guest::wait_until([&] { return (victim.device().status() & virtio::kNeedsReset) != 0; }),
         "the device wants a reset");
}

/// Runs a crime against a fresh device 0; then everything is as before.
template <typename Crime>
void commit(const char* name, Crime crime, bool breaks = true) {
  print(std::string_view{name, __builtin_strlen(name)}, "\n");
  Drive victim{0, kVictimQueue};
  crime(victim);
  if (breaks) expect_needs_reset(victim);
  witness->check_works();
  Drive{0, kVictimQueue}.check_works();
}

void break_rings() {
  commit("loop", [](Drive& drive) {
    drive.set(0, kRequest, 16, kNext, 1);
    drive.set(1, kData, 16, kNext, 0);
    drive.offer(0);
  });
  commit("head out of range", [](Drive& drive) { drive.offer(virtio::Queue::kSize); });
  commit("next out of range", [](Drive& drive) {
    drive.set(0, kRequest, 16, kNext, 0xFFFF);
    drive.offer(0);
  });
  commit("index that jumps", [](Drive& drive) { drive.offer(0, 5000); });
  commit("address outside memory", [](Drive& drive) {
    drive.set(0, 0xFFFF'FFFF'FFFF'FFF0, 16, 0, 0);
    drive.offer(0);
  });
  commit("address that wraps", [](Drive& drive) {
    drive.set(0, ~0ULL - 3, 4096, 0, 0);
    drive.offer(0);
  });
  commit("buffer over the hole", [](Drive& drive) {
    drive.set(0, 0xCFFF'FFFF, 4096, kWrite, 0);
    drive.offer(0);
  });
  commit("4 GiB", [](Drive& drive) {
    drive.set(0, kData, 0xFFFF'FFFF, kWrite, 0);
    drive.offer(0);
  });
  commit("nested indirect table", [](Drive& drive) {
    auto& inner = guest::memory_at<volatile virtio::Descriptor>(kTable);
    inner.address = kTable;
    inner.length = 16;
    inner.flags = kIndirect;
    drive.set(0, kTable, 16, kIndirect, 0);
    drive.offer(0);
  });
  commit("indirect table of odd size", [](Drive& drive) {
    drive.set(0, kTable, 17, kIndirect, 0);
    drive.offer(0);
  });
  commit("readable after writable", [](Drive& drive) {
    drive.set(0, kData, 16, kWrite | kNext, 1);
    drive.set(1, kRequest, 16, 0, 0);
    drive.offer(0);
  });
}

void break_requests() {
  // Chains that are none of a drive's: they come back, or the device asks for a reset, but nobody is hurt.
  const auto odd = [](const char* name, auto crime) { commit(name, crime, false); };
  odd("no status", [](Drive& drive) {
    drive.set(0, kRequest, 16, 0, 0);
    drive.offer(0);
  });
  odd("no header", [](Drive& drive) {
    drive.set(0, kStatusByte, 1, kWrite, 0);
    drive.offer(0);
  });
  odd("empty chain", [](Drive& drive) {
    drive.set(0, kRequest, 0, 0, 0);
    drive.offer(0);
  });
  odd("data that the device shall write, readable", [](Drive& drive) {
    drive.write_header(0, 0);
    drive.set(0, kRequest, 16, kNext, 1);
    drive.set(1, kData, 512, kNext, 2);
    drive.set(2, kStatusByte, 1, kWrite, 0);
    drive.offer(0);
  });
  odd("a status byte in the queue itself", [](Drive& drive) {
    drive.write_header(0, 0);
    drive.set(0, kRequest, 16, kNext, 1);
    drive.set(1, kVictimQueue, 4096, kWrite | kNext, 2);
    drive.set(2, kVictimQueue + 4098, 1, kWrite, 0);
    drive.offer(0);
  });
  odd("kicks for queues that are not there", [](Drive& drive) {
    for (std::uint32_t queue = 1; queue < 2000; queue += 7)
      drive.device().window().write32(virtio::kQueueNotify, queue);
  });
  odd("kicks in a row", [](Drive& drive) {
    for (int i = 0; i < 1000; ++i) drive.device().window().write32(virtio::kQueueNotify, 0);
  });
  odd("a reset with requests in flight", [](Drive& drive) {
    for (std::uint64_t i = 0; i < 60; ++i)
      drive.queue().offer({{kRequest, 16, false}, {kData + i * 0x1'0000, 0x1'0000, true}, {kStatusByte, 1, true}});
    drive.queue().kick();
    drive.device().reset();
    expect_equal(drive.device().status(), 0U, "the reset is complete when the store is");
  });
  odd("a queue that is switched off with requests in flight", [](Drive& drive) {
    for (std::uint64_t i = 0; i < 60; ++i)
      drive.queue().offer({{kRequest, 16, false}, {kData + i * 0x1'0000, 0x1'0000, true}, {kStatusByte, 1, true}});
    drive.queue().kick();
    drive.device().window().write32(virtio::kQueueSelect, 0);
    drive.device().window().write32(virtio::kQueueReady, 0);
    expect_equal(drive.device().window().read32(virtio::kQueueReady), 0U, "the queue is off");
  });
  odd("every register, with anything", [](Drive& drive) {
    const guest::Mmio& window = drive.device().window();
    for (std::uint64_t offset = 0; offset < 0x200; offset += 4) {
      if (offset == virtio::kStatus) continue;
      window.write32(offset, 0xDEAD'BEEF);
      window.write8(offset, 1);
      window.write64(offset, ~0ULL);
      (void)window.read64(offset);
      (void)window.read16(offset + 2);
    }
  });
  odd("every status", [](Drive& drive) {
    for (std::uint32_t status = 1; status < 256; ++status) drive.device().window().write32(virtio::kStatus, status);
  });
}

}  // namespace

void guest::guest_main(const BootInfo&) {
  static std::optional<Drive> other;
  other.emplace(1, kWitnessQueue);
  witness = &*other;
  witness->check_works();
  break_rings();
  break_requests();
  pass();
}
