#include "runtime/guest.h"
#include "runtime/interrupts.h"
#include "runtime/virtio.h"

/// A drive, every request type in many sizes and alignments, with data verified by checksum. The drive is the first
/// device; its content is the test's: 64-bit words that are their own offset. Command line: read_only=1;
/// until_key=1: all that writes, or of a read-only drive what reads, goes on, round after round, until a key comes.
namespace {

using guest::expect;
using guest::expect_equal;
using guest::print;
namespace virtio = guest::virtio;

constexpr std::uint32_t kIn = 0;
constexpr std::uint32_t kOut = 1;
constexpr std::uint32_t kFlush = 4;
constexpr std::uint32_t kGetId = 8;
constexpr std::uint32_t kDiscard = 11;
constexpr std::uint32_t kWriteZeroes = 13;
constexpr std::uint8_t kOk = 0;
constexpr std::uint8_t kIoError = 1;
constexpr std::uint8_t kUnsupported = 2;

/// FLUSH, DISCARD and WRITE_ZEROES
constexpr std::uint64_t kWanted = 1ULL << 9 | 1ULL << 13 | 1ULL << 14;

constexpr std::uint64_t kSector = 512;
constexpr unsigned kPin = 5;
constexpr std::uint8_t kVector = 0x55;

constexpr std::uint64_t kQueueMemory = 0x40'0000;
constexpr std::uint64_t kHeader = 0x41'0000;
constexpr std::uint64_t kStatus = 0x41'0100;
constexpr std::uint64_t kSegment = 0x41'0200;
constexpr std::uint64_t kData = 0x80'0000;  // 8 MiB: up to 16 MiB

struct Header {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};

class Disk {
 public:
  Disk() : device_(0) {
    expect_equal(device_.type(), virtio::kTypeBlock, "the first device is a drive");
    device_.begin(virtio::kVersion1 | virtio::kEventIndex | (device_.offered() & kWanted));
    queue_.emplace(device_, 0, virtio::Queue::Options{.memory = kQueueMemory});
    device_.start();
  }
  [[nodiscard]] std::uint64_t sectors() const { return device_.window().read64(virtio::kConfig); }
  [[nodiscard]] const virtio::Device& device() const { return device_; }
  [[nodiscard]] virtio::Queue& queue() { return *queue_; }

  std::uint8_t request(std::uint32_t type, std::uint64_t sector, std::span<const virtio::Buffer> data) {
    begin(type, sector);
    std::array<virtio::Buffer, 34> buffers{};
    std::size_t count = 0;
    buffers[count++] = {kHeader, sizeof(Header), false};
    for (const virtio::Buffer& part : data) buffers[count++] = part;
    buffers[count++] = {kStatus, 1, true};
    queue_->offer(std::span{buffers}.first(count));
    return finish();
  }
  std::uint8_t request(std::uint32_t type, std::uint64_t sector, std::initializer_list<virtio::Buffer> data) {
    return request(type, sector, std::span{data.begin(), data.size()});
  }
  void begin(std::uint32_t type, std::uint64_t sector) {
    guest::memory_at<volatile Header>(kHeader).type = type;
    guest::memory_at<volatile Header>(kHeader).sector = sector;
    guest::memory_at<volatile std::uint8_t>(kStatus) = 0xEE;
  }
  std::uint8_t finish() {
    queue_->kick();
    length_ = queue_->wait().length;
    return guest::memory_at<volatile std::uint8_t>(kStatus);
  }
  /// Bytes that the device said it has written, of the last request.
  [[nodiscard]] std::uint32_t length() const { return length_; }

 private:
  virtio::Device device_;
  std::optional<virtio::Queue> queue_;
  std::uint32_t length_ = 0;
};

void fill(std::uint64_t at, std::uint64_t length, std::uint64_t seed) {
  for (std::uint64_t i = 0; i < length; i += 8)
    guest::memory_at<volatile std::uint64_t>(at + i) = (seed + i) * 0x9E37'79B9'7F4A'7C15ULL;
}
[[nodiscard]] bool holds(std::uint64_t at, std::uint64_t length, std::uint64_t seed) {
  for (std::uint64_t i = 0; i < length; i += 8)
    if (guest::memory_at<volatile std::uint64_t>(at + i) != (seed + i) * 0x9E37'79B9'7F4A'7C15ULL) return false;
  return true;
}
[[nodiscard]] bool is_zero(std::uint64_t at, std::uint64_t length) {
  for (std::uint64_t i = 0; i < length; i += 8)
    if (guest::memory_at<volatile std::uint64_t>(at + i) != 0) return false;
  return true;
}

void check_content(Disk& disk) {
  for (const std::uint64_t sector : {0ULL, 1ULL, 7ULL, 100ULL, static_cast<unsigned long long>(disk.sectors() - 1)}) {
    expect_equal(disk.request(kIn, sector, {{kData, kSector, true}}), kOk, "a sector can be read");
    expect_equal(disk.length(), kSector + 1, "the length counts data and status");
    for (std::uint64_t i = 0; i < kSector; i += 8)
      expect_equal(guest::memory_at<volatile std::uint64_t>(kData + i), sector * kSector + i,
                   "it is what the test wrote");
  }
}

void check_sizes(Disk& disk) {
  const std::uint64_t sizes[] = {1, 2, 3, 8, 15, 64, 255, 256, 1024, 2048};
  for (const std::uint64_t count : sizes) {
    const std::uint64_t bytes = count * kSector;
    for (const std::uint64_t offset :
         std::initializer_list<std::uint64_t>{0, 8, 504, 4088}) {  // of the buffers in their pages
      const std::uint64_t sector = 16 + count % 13;
      fill(kData + offset, bytes, count * 1000 + offset);
      expect_equal(disk.request(kOut, sector, {{kData + offset, static_cast<std::uint32_t>(bytes), false}}), kOk,
                   "sectors can be written");
      expect_equal(disk.length(), 1U, "a write returns the status alone");
      const std::uint64_t back = kData + 0x20'0000 + offset;
      expect_equal(disk.request(kIn, sector, {{back, static_cast<std::uint32_t>(bytes), true}}), kOk, "and read back");
      expect(holds(back, bytes, count * 1000 + offset), "what was written is read");
    }
  }
}

void check_scattered(Disk& disk) {
  std::array<virtio::Buffer, 32> parts{};
  for (std::size_t i = 0; i < parts.size(); ++i)
    parts[i] = {kData + i * 0x3000 + 8 * i, static_cast<std::uint32_t>(kSector), false};
  for (std::size_t i = 0; i < parts.size(); ++i) fill(parts[i].address, kSector, i);
  expect_equal(disk.request(kOut, 64, parts), kOk, "a write from 32 places");
  expect_equal(disk.request(kIn, 64, {{kData + 0x20'0000, 32 * kSector, true}}), kOk, "read into one");
  for (std::size_t i = 0; i < parts.size(); ++i)
    expect(holds(kData + 0x20'0000 + i * kSector, kSector, i), "the parts are in their order");
}

void check_many_in_flight(Disk& disk) {
  constexpr unsigned kCount = 80;
  for (unsigned i = 0; i < kCount; ++i) {
    const std::uint64_t header = kHeader + 0x1000 + i * 32ULL;
    guest::memory_at<volatile Header>(header).type = kIn;
    guest::memory_at<volatile Header>(header).sector = i % 8;
    guest::memory_at<volatile std::uint8_t>(header + 24) = 0xEE;
    disk.queue().offer({{header, 16, false}, {kData + i * 4096ULL, 4096, true}, {header + 24, 1, true}});
  }
  disk.queue().kick();
  for (unsigned i = 0; i < kCount; ++i) (void)disk.queue().wait();
  for (unsigned i = 0; i < kCount; ++i) {
    expect_equal(guest::memory_at<volatile std::uint8_t>(kHeader + 0x1000 + i * 32ULL + 24), kOk, "all were served");
    expect_equal(guest::memory_at<volatile std::uint64_t>(kData + i * 4096ULL), i % 8 * kSector, "with their data");
  }
}

void check_zeroes(Disk& disk) {
  struct Segment {
    std::uint64_t sector;
    std::uint32_t count;
    std::uint32_t flags;
  };
  fill(kData, 16 * kSector, 7);
  expect_equal(disk.request(kOut, 128, {{kData, 16 * kSector, false}}), kOk, "a write before zeroes");
  auto& segment = guest::memory_at<volatile Segment>(kSegment);
  segment.sector = 130;
  segment.count = 4;
  segment.flags = 0;
  const std::uint8_t zeroes = disk.request(kWriteZeroes, 0, {{kSegment, sizeof(Segment), false}});
  expect(zeroes == kOk || zeroes == kUnsupported, "write-zeroes works, or says that the host has none");
  segment.sector = 136;
  const std::uint8_t discard = disk.request(kDiscard, 0, {{kSegment, sizeof(Segment), false}});
  expect(discard == kOk || discard == kUnsupported, "discard works, or says that the host has none");
  expect_equal(disk.request(kIn, 128, {{kData + 0x20'0000, 16 * kSector, true}}), kOk, "read after zeroes");
  const std::uint64_t back = kData + 0x20'0000;
  expect(holds(back, 2 * kSector, 7), "before them: as written");
  if (zeroes == kOk) expect(is_zero(back + 2 * kSector, 4 * kSector), "zeroes where they were asked for");
  if (discard == kOk) expect(is_zero(back + 8 * kSector, 4 * kSector), "a discarded range of a file reads as zeroes");
  print("write-zeroes ", zeroes, ", discard ", discard, "\n");
  segment.flags = 2;
  expect_equal(disk.request(kWriteZeroes, 0, {{kSegment, sizeof(Segment), false}}), kUnsupported, "unknown flags");
}

void check_errors(Disk& disk) {
  expect_equal(disk.request(kIn, disk.sectors(), {{kData, kSector, true}}), kIoError, "a read behind the end");
  expect_equal(disk.request(kIn, disk.sectors() - 1, {{kData, 2 * kSector, true}}), kIoError, "a read over the end");
  expect_equal(disk.request(kOut, ~0ULL, {{kData, kSector, false}}), kIoError, "a write at the last sector there is");
  expect_equal(disk.request(kIn, 0, {{kData, 100, true}}), kIoError, "a length that is no sector's");
  expect_equal(disk.request(77, 0, {{kData, kSector, true}}), kUnsupported, "a type that there is not");
  expect_equal(disk.request(kIn, 0, {{kData, kSector, true}}), kOk, "and the drive goes on");
}

void check_id(Disk& disk) {
  expect_equal(disk.request(kGetId, 0, {{kData, 20, true}}), kOk, "the id can be read");
  print("id ", std::string_view{&guest::memory_at<const char>(kData), 4}, "\n");
  expect(std::string_view(&guest::memory_at<const char>(kData), 4) == "data", "the id is the drive's");
}

/// A device that looks late whether to interrupt may do so for a request that was waited for without: such an interrupt
/// comes beside the one that is due.
void check_interrupt(Disk& disk) {
  guest::start_interrupts();
  guest::io_apic::route(kPin, {.vector = kVector});
  const auto status = [&] { return disk.device().window().read32(virtio::kInterruptStatus); };
  std::uint64_t seen = 0;
  for (int i = 0; i < 20; ++i) {
    disk.queue().interrupt_after(1);
    disk.begin(kIn, 0);
    disk.queue().offer({{kHeader, 16, false}, {kData, kSector, true}, {kStatus, 1, true}});
    disk.queue().kick();
    do {
      expect(guest::wait_for_interrupts(kVector, ++seen), "a request's end interrupts, and says why");
    } while ((status() & 1U) == 0);
    (void)disk.queue().wait();
    const bool acknowledged = guest::wait_until([&] {
      disk.device().window().write32(virtio::kInterruptAcknowledge, 1);
      return status() == 0;
    });
    expect(acknowledged, "until it is acknowledged");
  }
}

bool key_waits() { return (guest::in8(guest::serial::kLineStatus) & guest::serial::kDataReady) != 0; }

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const bool read_only = boot.number("read_only", 0) != 0;
  Disk disk;
  print(disk.sectors(), " sectors\n");
  check_content(disk);
  check_many_in_flight(disk);
  check_id(disk);
  check_errors(disk);
  const bool until_key = boot.number("until_key", 0) != 0;
  if (read_only) {
    for (std::uint64_t round = 0; until_key && !key_waits(); ++round) {
      check_content(disk);
      check_many_in_flight(disk);
      if (round % 16 == 0) print("round ", round, " done\n");
    }
    expect_equal(disk.request(kOut, 0, {{kData, kSector, false}}), kIoError, "a write to a read-only drive");
    check_content(disk);
  } else {
    for (std::uint64_t round = 0; until_key ? !key_waits() : round == 0; ++round) {
      check_sizes(disk);
      check_scattered(disk);
      check_zeroes(disk);
      print("round ", round, " done\n");
    }
    expect_equal(disk.request(kFlush, 0, {}), kOk, "a flush");
  }
  check_interrupt(disk);
  for (int i = 0; i < 100; ++i) {
    Disk again;
    expect_equal(again.request(kIn, 1, {{kData, kSector, true}}), kOk, "a read after a reset");
    expect_equal(guest::memory_at<volatile std::uint64_t>(kData), kSector, "with the right data");
  }
  pass();
}
