// What a hostile driver can put into the queue of a drive: any descriptors, direct and indirect, any heads, any
// headers and ranges, with kicks, pauses and resets in between. Whatever it is, everything comes back and a reset finds
// the drive at rest.
//
// The drive, its ring and its image in memory are made once; an input starts with a reset drive and cleared memory.

#include "tests/unit/virtio/fake_driver.h"
#include "virtio/block_device.h"

#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

namespace mayfly {
namespace {

using testing::FakeHost;
using testing::FakeMemory;

constexpr std::uint16_t kQueueEntries = 64;
constexpr std::uint64_t kImageBytes = 64 * 1024;
// Where things lie in the guest.
constexpr std::uint64_t kDescriptors = 0x1000;
constexpr std::uint64_t kAvailable = 0x2000;
constexpr std::uint64_t kUsed = 0x3000;
constexpr std::uint64_t kData = 0x4000;
constexpr std::uint64_t kDataBytes = 0x10000;

void must(bool holds) {
  if (!holds) std::abort();
}

template <typename T>
T must(Result<T> result) {
  must(result.has_value());
  return std::move(*result);
}

/// Takes what is there off an input; zeroes behind its end.
template <typename T>
T take(std::span<const std::uint8_t>& input) {
  T value{};
  const std::size_t length = std::min(sizeof value, input.size());
  std::memcpy(&value, input.data(), length);
  input = input.subspan(length);
  return value;
}

/// How an input begins.
struct Plan {
  std::uint8_t descriptors;
  std::uint8_t heads;
  std::uint8_t features;
  std::uint8_t disturb;  ///< Kicks between the heads, pauses, an index out of place.
};

/// A descriptor in an input: mostly one that has a chance.
struct Sketch {
  std::uint16_t address;
  std::uint16_t length;
  std::uint8_t flags;
  std::uint8_t next;
};

class World {
 public:
  World() : host_(*loop_, *device_, ram_.memory()) {}
  ~World() { loop_->close(); }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  void play(std::span<const std::uint8_t> input) {
    std::ranges::fill(ram_.bytes({0}, kData + kDataBytes), std::byte{0});
    const Plan plan = take<Plan>(input);
    const std::uint8_t descriptors = plan.descriptors % kQueueEntries;
    for (std::uint16_t i = 0; i <= descriptors; ++i) describe(i, take<Sketch>(input));
    std::array<std::uint8_t, kQueueEntries> heads{};
    const std::uint8_t head_count = plan.heads % kQueueEntries;
    for (std::uint8_t i = 0; i <= head_count; ++i) heads.at(i) = take<std::uint8_t>(input);
    const std::size_t room = std::min<std::size_t>(input.size(), kDataBytes);
    std::memcpy(ram_.bytes({kData}, kDataBytes).data(), input.data(), room);

    start(plan);
    for (std::uint8_t i = 0; i <= head_count; ++i) {
      offer(heads.at(i));
      if ((plan.disturb & 1) != 0) host_.kick(0);
    }
    if ((plan.disturb & 2) != 0) word(kAvailable + 2) = static_cast<std::uint16_t>(plan.disturb << 4);
    host_.kick(0);
    if ((plan.disturb & 4) != 0) pause();
    host_.reset();
    must(host_.is_quiet);
  }

 private:
  static DriveConfig make_config(const OwnedFd& file) {
    must(::ftruncate(file.get(), kImageBytes) == 0);
    return {.drive_id = "fuzz",
            .path_on_host = fmt::format("/proc/self/fd/{}", file.get()),
            .cache_type = CacheType::Writeback};
  }
  std::uint16_t& word(std::uint64_t at) { return *reinterpret_cast<std::uint16_t*>(ram_.bytes({at}, 2).data()); }

  void describe(std::uint16_t index, const Sketch& sketch) {
    // The flags' upper bits: a length or an address that is absurd.
    const ring_abi::Descriptor descriptor{
        .address = (sketch.flags & 0x80) != 0 ? std::uint64_t{sketch.address} << 40 : kData + sketch.address,
        .length = (sketch.flags & 0x40) != 0 ? std::uint32_t{sketch.length} << 16 : sketch.length,
        .flags = static_cast<std::uint16_t>(sketch.flags & 0x0F),
        .next = static_cast<std::uint16_t>((sketch.flags & 0x20) != 0 ? sketch.next : sketch.next % kQueueEntries)};
    std::memcpy(ram_.bytes({kDescriptors + 16ULL * index}, 16).data(), &descriptor, sizeof descriptor);
  }
  void offer(std::uint8_t head) {
    std::uint16_t& index = word(kAvailable + 2);
    word(kAvailable + 4 + 2ULL * (index % kQueueEntries)) = head;
    ++index;
  }
  void start(const Plan& plan) {
    VirtQueue& queue = host_.queues().front();
    queue.registers() = {.size = kQueueEntries,
                         .descriptors = GuestAddress{kDescriptors},
                         .available = GuestAddress{kAvailable},
                         .used = GuestAddress{kUsed}};
    must(queue.enable((plan.features & 1) != 0).has_value());
    host_.faults.clear();
    host_.activate((plan.features & 2) != 0 ? device_->features() : 0);
  }
  void pause() {
    host_.quiesce();
    {
      const auto held = host_.lock();
      device_->resume();
    }
    host_.kick(0);
  }

  Metrics metrics_;
  Log log_ = Log{"fuzz"};
  bool silent_ = log_.configure({.level = LogLevel::Off}).has_value();
  OwnedFd file_{::memfd_create("image", MFD_CLOEXEC)};
  DriveConfig config_ = make_config(file_);
  FakeMemory ram_{1};
  std::unique_ptr<EventLoop> loop_ = must(EventLoop::create());
  std::unique_ptr<BlockDevice> device_ =
      must(BlockDevice::create(config_, must(DiskImage::open(config_)), *loop_, metrics_.block, log_));
  FakeHost host_;
};

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static mayfly::World world;
  world.play({data, size});
  return 0;
}
