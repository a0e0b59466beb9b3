#include "runtime/guest.h"
#include "runtime/virtio.h"

/// A drive under load, for perf/run block: `count` requests of `size` bytes, `depth` of them in flight, at random or
/// one after another. Prints BENCH START and BENCH END around them; how long that took, the host measures.
/// Command line: depth=32 size=4096 count=200000 write=0 sequential=0. The drive is the first device.
namespace {

using guest::expect_equal;
using guest::print;
namespace virtio = guest::virtio;

constexpr std::uint32_t kIn = 0;
constexpr std::uint32_t kOut = 1;
constexpr std::uint64_t kSector = 512;

constexpr std::uint64_t kQueueMemory = 0x40'0000;
constexpr std::uint64_t kHeaders = 0x41'0000;  // 32 bytes a request: header, status
constexpr std::uint64_t kStatusOffset = 24;
constexpr std::uint64_t kTables = 0x42'0000;  // 64 bytes a request: its chain of three
constexpr std::uint64_t kData = 0x100'0000;
constexpr std::uint32_t kMaximumDepth = virtio::Queue::kSize;

struct Header {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};

struct Load {
  std::uint32_t depth;
  std::uint32_t size;
  std::uint64_t count;
  bool write;
  bool sequential;
};

/// Xorshift: any order that no read-ahead guesses.
class Positions {
 public:
  Positions(const Load& load, std::uint64_t sectors) : load_(load), places_(sectors * kSector / load.size) {}
  std::uint64_t next_sector() {
    if (load_.sequential) return next_++ % places_ * load_.size / kSector;
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ % places_ * load_.size / kSector;
  }

 private:
  Load load_;
  std::uint64_t places_;
  std::uint64_t next_ = 0;
  std::uint64_t state_ = 0x9E37'79B9'7F4A'7C15;
};

class Bench {
 public:
  Bench(const Load& load, const virtio::Device& disk, virtio::Queue& queue)
      : load_(load), queue_(queue), positions_(load, disk.window().read64(virtio::kConfig)) {}

  void run() {
    std::uint64_t begun = 0;
    for (; begun < load_.depth; ++begun) begin(static_cast<std::uint32_t>(begun));
    queue_.kick();
    for (std::uint64_t done = 0; done < load_.count;) {
      unsigned batch = 0;
      while (const auto used = queue_.used()) {
        const std::uint32_t slot = slot_of_[used->id];
        expect_equal(guest::memory_at<volatile std::uint8_t>(header(slot) + kStatusOffset), 0, "a request succeeds");
        ++done;
        ++batch;
        if (begun++ < load_.count) begin(slot);
      }
      if (batch > 0) queue_.kick();
      guest::pause();
    }
  }

 private:
  static std::uint64_t header(std::uint32_t slot) { return kHeaders + 32ULL * slot; }
  void begin(std::uint32_t slot) {
    auto& request = guest::memory_at<volatile Header>(header(slot));
    request.type = load_.write ? kOut : kIn;
    request.sector = positions_.next_sector();
    guest::memory_at<volatile std::uint8_t>(header(slot) + kStatusOffset) = 0xEE;
    const std::array<virtio::Buffer, 3> chain{{{header(slot), 16, false},
                                               {kData + std::uint64_t{slot} * load_.size, load_.size, !load_.write},
                                               {header(slot) + kStatusOffset, 1, true}}};
    const std::uint16_t head = queue_.offer_indirect(kTables + 64ULL * slot, chain);
    slot_of_[head] = slot;
  }

  Load load_;
  virtio::Queue& queue_;
  Positions positions_;
  std::array<std::uint32_t, virtio::Queue::kSize> slot_of_{};
};

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const Load load{.depth = static_cast<std::uint32_t>(boot.number("depth", 32)),
                  .size = static_cast<std::uint32_t>(boot.number("size", 4096)),
                  .count = boot.number("count", 200'000),
                  .write = boot.number("write", 0) != 0,
                  .sequential = boot.number("sequential", 0) != 0};
  guest::expect(load.depth <= kMaximumDepth && load.depth > 0, "the depth fits the queue");
  virtio::Device disk{0};
  disk.begin(virtio::kVersion1 | virtio::kEventIndex | virtio::kIndirect);
  virtio::Queue queue{disk, 0, {.memory = kQueueMemory}};
  disk.start();
  static std::optional<Bench> bench;
  bench.emplace(load, disk, queue);
  print("BENCH START\n");
  bench->run();
  print("BENCH END kicks=", queue.kicks(), "\n");
  pass();
}
