#pragma once

#include "tests/support/child_process.h"
#include "tests/unit/virtio/fake_driver.h"
#include "virtio/block/block_device.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

/// A drive over a scratch file, and its driver, on a real ring.
///
///   BlockFixture drive{{.sectors = 64}};
///   EXPECT_EQ(drive.write(3, bytes), VIRTIO_BLK_S_OK);
///   const auto answer = drive.transact({drive.header(VIRTIO_BLK_T_IN, 3), drive.to_fill(512)});
namespace mayfly::testing {

using Bytes = std::vector<std::byte>;

struct BlockFixtureOptions {
  std::uint64_t sectors = 64;
  bool read_only = false;
  bool direct = false;
  CacheType cache_type = CacheType::Writeback;
  Discard discard = Discard::Unmap;
  std::optional<RateLimiterConfig> rate_limiter{};
  std::string path{};                     ///< Absent: a scratch file of `sectors`, filled with pattern().
  bool layered = false;                   ///< That file is the base, and the drive an overlay over it, which is empty.
  std::vector<std::string> base_paths{};  ///< Layers below `path`, which is an overlay then.
  std::uint64_t features = ~0ULL;         ///< Of those offered, what the driver accepts.
};

/// What came back for one chain.
struct BlockAnswer {
  int status = -1;  ///< -1: the device wrote none.
  std::uint32_t used = 0;
};

class BlockFixture {
 public:
  static constexpr std::byte kNoStatus{0xEE};

  explicit BlockFixture(const BlockFixtureOptions& options = {}) : options_(options) {
    config.drive_id = "rootfs";
    config.path_on_host = options.path.empty() ? make_image("disk", pattern(options.sectors)) : options.path;
    config.base_paths = options.base_paths;
    if (options.layered) config.base_paths.push_back(std::exchange(config.path_on_host, scratch.file("overlay")));
    config.is_read_only = options.read_only;
    config.direct = options.direct;
    config.cache_type = options.cache_type;
    config.discard = options.discard;
    config.rate_limiter = options.rate_limiter;
    (void)log.configure({.level = LogLevel::Off});
    loop = must(EventLoop::create());
    device = must(BlockDevice::create(config, must(DiskImage::open(config)), *loop, metrics.block, log));
    host = std::make_unique<FakeHost>(*loop, *device, ram.memory());
    start();
  }
  ~BlockFixture() {
    // What is in flight is cancelled before its buffers go.
    loop->close();
    host.reset();
    device.reset();
  }
  BlockFixture(const BlockFixture&) = delete;
  BlockFixture& operator=(const BlockFixture&) = delete;

  /// What a driver does after a reset.
  void start() {
    driver = std::make_unique<FakeQueue>(ram, std::uint16_t{256});
    waiting_.clear();
    driver->enable(host->queues().front(), true);
    host->activate(device->features() & options_.features);
  }

  /// Every sector different from every other.
  static Bytes pattern(std::uint64_t sectors, unsigned seed = 0) {
    Bytes bytes(sectors * kSectorSize);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i / 512 * 7 + i % 512 + seed);
    return bytes;
  }
  std::string make_image(const std::string& name, const Bytes& content) {
    const std::string path = scratch.file(name);
    const OwnedFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    EXPECT_EQ(::pwrite(file.get(), content.data(), content.size(), 0), static_cast<ssize_t>(content.size()));
    return path;
  }
  /// The image as the host sees it.
  [[nodiscard]] Bytes on_disk() const { return on_disk(config.path_on_host); }
  [[nodiscard]] static Bytes on_disk(const std::string& path) {
    struct stat status = {};
    EXPECT_EQ(::stat(path.c_str(), &status), 0);
    Bytes bytes(static_cast<std::size_t>(status.st_size));
    const OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    EXPECT_EQ(::pread(file.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return bytes;
  }

  // Pieces of chains
  FakeBuffer header(std::uint32_t type, std::uint64_t sector) {
    return {ram.put_value(virtio_blk_outhdr{.type = type, .ioprio = 0, .sector = sector}), 16, false};
  }
  FakeBuffer holding(std::span<const std::byte> bytes) {
    return {ram.put(bytes), static_cast<std::uint32_t>(bytes.size()), false};
  }
  FakeBuffer to_fill(std::uint64_t length, std::uint64_t alignment = 16) {
    return {ram.room(length, alignment), static_cast<std::uint32_t>(length), true};
  }
  FakeBuffer status() { return {ram.put_value(kNoStatus), 1, true}; }

  /// Offers a chain of these buffers, of which the last byte is the status; its head.
  std::uint16_t offer(const std::vector<FakeBuffer>& buffers) {
    const std::uint16_t head = driver->offer_indirect(buffers);
    const FakeBuffer& last = buffers.back();
    if (last.writable && last.length > 0) waiting_[head] = GuestAddress{last.at.value + last.length - 1};
    return head;
  }
  void kick() { host->kick(0); }
  /// Collects what has come back until there are answers to `count` chains.
  std::map<std::uint16_t, BlockAnswer> collect(std::size_t count) {
    std::map<std::uint16_t, BlockAnswer> answers;
    host->serve_until([&] {
      while (const auto element = driver->next_used()) {
        const auto head = static_cast<std::uint16_t>(element->id);
        BlockAnswer& answer = answers[head];
        answer.used = element->length;
        if (const auto at = waiting_.find(head); at != waiting_.end()) {
          const std::byte value = ram.bytes(at->second, 1).front();
          answer.status = value == kNoStatus ? -1 : static_cast<int>(value);
          waiting_.erase(at);
        }
      }
      return answers.size() >= count;
    });
    return answers;
  }
  BlockAnswer transact(const std::vector<FakeBuffer>& buffers) {
    const std::uint16_t head = offer(buffers);
    kick();
    return collect(1).at(head);
  }

  // Whole requests
  int write(std::uint64_t sector, std::span<const std::byte> bytes) {
    return transact({header(VIRTIO_BLK_T_OUT, sector), holding(bytes), status()}).status;
  }
  Bytes read(std::uint64_t sector, std::uint64_t sectors) {
    const FakeBuffer room = to_fill(sectors * kSectorSize);
    const BlockAnswer answer = transact({header(VIRTIO_BLK_T_IN, sector), room, status()});
    EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(answer.used, sectors * kSectorSize + 1);
    return filled(room);
  }
  int ranges(std::uint32_t type, const std::vector<virtio_blk_discard_write_zeroes>& entries) {
    return transact({header(type, 0), holding(std::as_bytes(std::span{entries})), status()}).status;
  }
  [[nodiscard]] Bytes filled(const FakeBuffer& buffer) const {
    const auto bytes = ram.bytes(buffer.at, buffer.length);
    return {bytes.begin(), bytes.end()};
  }
  [[nodiscard]] virtio_blk_config device_config() const {
    virtio_blk_config value{};
    device->read_config(0, std::as_writable_bytes(std::span{&value, 1}));
    return value;
  }

  template <typename T>
  static T must(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().message);
    return std::move(*result);
  }

  ScratchDirectory scratch;
  DriveConfig config;
  Metrics metrics;
  Log log{"test"};
  FakeMemory ram{256};
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<BlockDevice> device;
  std::unique_ptr<FakeHost> host;
  std::unique_ptr<FakeQueue> driver;

 private:
  BlockFixtureOptions options_;
  std::map<std::uint16_t, GuestAddress> waiting_;  // head: its status
};

/// A part of some bytes, by sectors.
inline Bytes sectors_of(const Bytes& bytes, std::uint64_t sector, std::uint64_t count) {
  const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(sector * kSectorSize);
  return {begin, begin + static_cast<std::ptrdiff_t>(count * kSectorSize)};
}

}  // namespace mayfly::testing
