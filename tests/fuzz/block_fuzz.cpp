// What a hostile driver can put into the queue of a drive: any descriptors, direct and indirect, any heads, any
// headers and ranges, with kicks, pauses and resets in between. Whatever it is, everything comes back and a reset finds
// the drive at rest.
//
// There are two drives, a plain one and one in layers. They, their rings and images in memory are made once; an input starts
// with a reset drive, an empty overlay and cleared memory. The layers below an overlay stay as they are.

#include "tests/fuzz/input.h"
#include "tests/fuzz/must.h"
#include "tests/unit/virtio/fake_driver.h"
#include "virtio/block/block_device.h"
#include "vmm/base/files.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace mayfly {
namespace {

using testing::FakeHost;
using testing::FakeMemory;

constexpr std::uint16_t kQueueEntries = 64;
constexpr std::uint64_t kImageBytes = 64 * 1024;
constexpr std::byte kBase{0xBA};
// Where things lie in the guest.
constexpr std::uint64_t kDescriptors = 0x1000;
constexpr std::uint64_t kAvailable = 0x2000;
constexpr std::uint64_t kUsed = 0x3000;
constexpr std::uint64_t kData = 0x4000;
constexpr std::uint64_t kDataBytes = 0x10000;

/// How an input begins.
struct Plan {
  std::uint8_t descriptors;
  std::uint8_t heads;
  std::uint8_t features;  ///< 4: of the drive in layers.
  std::uint8_t
      disturb;  ///< Kicks between the heads, an index out of place, pauses; 8: requests instead of descriptors.
};

/// A request of header, data and status in an input: nearly right, so that what lies behind the parser is reached.
struct Request {
  std::uint8_t type;
  std::uint8_t sector;
  std::uint16_t length;
  std::uint8_t data;   ///< Where, in units of 64 bytes.
  std::uint8_t twist;  ///< 1: no status, 2: a short header, 4: the wrong direction, 8: any length.
};
constexpr std::uint16_t kMaximumRequests = kQueueEntries / 3;
constexpr std::uint64_t kHeaders = kData + 0x8000;
constexpr std::uint64_t kStatuses = kData + 0x9000;

/// A descriptor in an input: mostly one that has a chance.
struct Sketch {
  std::uint16_t address;
  std::uint16_t length;
  std::uint8_t flags;
  std::uint8_t next;
};

class World {
 public:
  explicit World(bool layered) : layered_(layered), host_(*loop_, *device_, ram_.memory()) {}
  ~World() { loop_->close(); }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  void play(std::span<const std::uint8_t> input) {
    std::memset(ram_.bytes({0}, kData + kDataBytes).data(), 0, kData + kDataBytes);
    const Plan plan = take<Plan>(input);
    if (layered_) must(device_->empty_overlay().has_value());
    const std::vector<std::uint8_t> heads = (plan.disturb & 8) != 0 ? lay_requests(plan, input) : lay_any(plan, input);
    start(plan);
    for (const std::uint8_t head : heads) {
      offer(head);
      if ((plan.disturb & 1) != 0) host_.kick(0);
    }
    if ((plan.disturb & 2) != 0) word(kAvailable + 2) = static_cast<std::uint16_t>(plan.disturb << 4);
    host_.kick(0);
    if ((plan.disturb & 4) != 0) pause();
    host_.reset();
    const MutexLock lock{host_.mutex()};
    must(host_.phase() == DevicePhase::Idle);
    if (layered_) must_be_as_made(base_);
  }

 private:
  static DriveConfig make_config(const OwnedFd& file, const OwnedFd& base, bool layered) {
    const auto name_of = [](const OwnedFd& of) { return fmt::format("/proc/self/fd/{}", of.get()); };
    must(::ftruncate(base.get(), kImageBytes) == 0 && (layered || ::ftruncate(file.get(), kImageBytes) == 0));
    const std::vector<std::byte> content(kImageBytes, kBase);
    must(write_all_at(base.get(), content, 0));
    return {.drive_id = "fuzz",
            .path_on_host = name_of(file),
            .base_paths = layered ? std::vector{name_of(base)} : std::vector<std::string>{},
            .cache_type = CacheType::Writeback,
            .discard = Discard::Unmap};
  }
  static void must_be_as_made(const OwnedFd& base) {
    std::vector<std::byte> content(kImageBytes);
    must(read_all_at(base.get(), content, 0) == content.size());
    must(std::ranges::all_of(content, [](std::byte byte) { return byte == kBase; }));
  }
  std::uint16_t& word(std::uint64_t at) { return *reinterpret_cast<std::uint16_t*>(ram_.bytes({at}, 2).data()); }

  /// The rest of the input is what lies in memory: headers, ranges, indirect tables.
  void lay_data(std::span<const std::uint8_t> input) {
    const std::size_t room = std::min<std::size_t>(input.size(), kDataBytes);
    std::memcpy(ram_.bytes({kData}, kDataBytes).data(), input.data(), room);
  }
  std::vector<std::uint8_t> lay_any(const Plan& plan, std::span<const std::uint8_t> input) {
    for (std::uint16_t i = 0; i <= plan.descriptors % kQueueEntries; ++i) describe(i, take<Sketch>(input));
    std::vector<std::uint8_t> heads;
    for (std::uint8_t i = 0; i <= plan.heads % kQueueEntries; ++i) heads.push_back(take<std::uint8_t>(input));
    lay_data(input);
    return heads;
  }
  std::vector<std::uint8_t> lay_requests(const Plan& plan, std::span<const std::uint8_t> input) {
    std::vector<Request> requests;
    for (std::uint16_t i = 0; i <= plan.heads % kMaximumRequests; ++i) requests.push_back(take<Request>(input));
    lay_data(input);
    std::vector<std::uint8_t> heads;
    for (const Request& request : requests) {
      lay_request(static_cast<std::uint16_t>(heads.size()), request);
      heads.push_back(static_cast<std::uint8_t>(3 * heads.size()));
    }
    return heads;
  }
  void lay_request(std::uint16_t number, const Request& request) {
    const virtio_blk_outhdr header{
        .type = std::uint32_t{request.type} % 16, .ioprio = 0, .sector = request.sector % (kImageBytes / 512 + 4)};
    const GuestAddress header_at{kHeaders + 16ULL * number};
    must(ram_.memory().store(header_at, header));
    const bool fills = header.type == VIRTIO_BLK_T_IN || header.type == VIRTIO_BLK_T_GET_ID;
    const bool transfers = header.type == VIRTIO_BLK_T_IN || header.type == VIRTIO_BLK_T_OUT;
    const std::uint16_t unit = (request.twist & 8) != 0 ? 1 : transfers ? 512 : 16;
    const bool writable = fills != ((request.twist & 4) != 0);
    const auto length = static_cast<std::uint32_t>(request.length % 0x4000 / unit * unit);
    const auto first = static_cast<std::uint16_t>(3 * number);
    const auto next = [first](int step) { return static_cast<std::uint16_t>(first + step); };
    put_descriptor(first, {.address = header_at.value,
                           .length = (request.twist & 2) != 0 ? 15U : 16U,
                           .flags = ring_abi::kNext,
                           .next = next(1)});
    const int flags = (writable ? ring_abi::kWrite : 0) | ((request.twist & 1) != 0 ? 0 : ring_abi::kNext);
    put_descriptor(next(1), {.address = kData + 64ULL * request.data,
                             .length = length,
                             .flags = static_cast<std::uint16_t>(flags),
                             .next = next(2)});
    put_descriptor(next(2), {.address = kStatuses + number, .length = 1, .flags = ring_abi::kWrite, .next = 0});
  }
  void put_descriptor(std::uint16_t index, const ring_abi::Descriptor& descriptor) {
    must(ram_.memory().store(GuestAddress{kDescriptors + 16ULL * index}, descriptor));
  }
  void describe(std::uint16_t index, const Sketch& sketch) {
    // The flags' upper bits: a length or an address that is absurd.
    put_descriptor(
        index,
        {.address = (sketch.flags & 0x80) != 0 ? std::uint64_t{sketch.address} << 40 : kData + sketch.address,
         .length = (sketch.flags & 0x40) != 0 ? std::uint32_t{sketch.length} << 16 : sketch.length,
         .flags = static_cast<std::uint16_t>(sketch.flags & 0x0F),
         .next = static_cast<std::uint16_t>((sketch.flags & 0x20) != 0 ? sketch.next : sketch.next % kQueueEntries)});
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
    host_.drain();
    host_.undrain();
    host_.kick(0);
  }

  Metrics metrics_;
  Log log_ = Log{"fuzz"};
  bool silent_ = log_.configure({.level = LogLevel::Off}).has_value();
  bool layered_;
  OwnedFd file_{::memfd_create("image", MFD_CLOEXEC)};
  OwnedFd base_{::memfd_create("base", MFD_CLOEXEC)};
  DriveConfig config_ = make_config(file_, base_, layered_);
  FakeMemory ram_{1};
  std::unique_ptr<EventLoop> loop_ = must(EventLoop::create());
  std::unique_ptr<BlockDevice> device_ =
      must(BlockDevice::create(config_, must(DiskImage::open(config_)), *loop_, metrics_.block, log_));
  FakeHost host_;
};

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static mayfly::World plain{false};
  static mayfly::World layered{true};
  const bool in_layers = size > 2 && (data[2] & 4) != 0;
  (in_layers ? layered : plain).play({data, size});
  return 0;
}
