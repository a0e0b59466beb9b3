#pragma once

#include "tests/support/child_process.h"
#include "tests/unit/virtio/block/block_fixture.h"
#include "virtio/block/overlay.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <stdexcept>
#include <string>

/// An overlay's file over a drive of some size, opened as a test wants it.
namespace mayfly::testing {

constexpr BootId boot_of(unsigned number) {
  BootId id{};
  id.front() = static_cast<std::byte>(number);
  return id;
}

/// What a test changes of it is the field that it names.
inline OverlayOrder overlay_order(std::uint64_t drive_size, unsigned boot = 1) {
  return {.who = "the overlay",
          .below = {.size_bytes = drive_size, .modified_ns = 1'000'000'007, .id = {}},
          .boot = boot_of(boot),
          .access = OverlayAccess::Ordered};
}

class OverlayFile {
 public:
  OverlayFile() : fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {}
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] Overlay open(const OverlayOrder& order) const { return BlockFixture::must(Overlay::open(fd(), order)); }
  [[nodiscard]] std::string refusal(const OverlayOrder& order) const {
    auto opened = Overlay::open(fd(), order);
    return opened ? "" : opened.error().message;
  }
  void put(std::uint64_t offset, std::span<const std::byte> bytes) const {
    if (::pwrite(fd(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) != static_cast<ssize_t>(bytes.size()))
      throw std::runtime_error("cannot write the overlay's file");
  }
  /// As a device writes a block: data, the volatile map, and then it is there.
  void write_block(Overlay& overlay, std::uint64_t block, std::byte value) const {
    const std::uint64_t size = overlay.header().block_size;
    put(overlay.place_of(block * size), Bytes(size, value));
    const auto map = overlay.map().record(block, 1);
    put(map.offset, map.bytes);
    overlay.map().publish(block, 1);
  }
  [[nodiscard]] std::byte first_byte(const Overlay& overlay, std::uint64_t block) const {
    std::byte value{0xEE};
    if (::pread(fd(), &value, 1, static_cast<off_t>(overlay.place_of(block * overlay.header().block_size))) != 1)
      throw std::runtime_error("cannot read the overlay's file");
    return value;
  }

 private:
  ScratchDirectory scratch_{"/dev/shm"};  // where syncing costs nothing
  std::string path_ = scratch_.file("overlay");
  OwnedFd fd_;
};

/// Of the open file, so that a change of it shows whatever the clock's ticks.
inline void set_old_time(int fd) {
  const std::array<timespec, 2> times{timespec{.tv_sec = 1'000'000, .tv_nsec = 7},
                                      timespec{.tv_sec = 1'000'000, .tv_nsec = 7}};
  EXPECT_EQ(::futimens(fd, times.data()), 0);
}
inline constexpr std::int64_t kOldTimeNs = 1'000'000'000'000'007;

inline std::int64_t modified_ns(const std::string& path) {
  struct stat status = {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0);
  return std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
}

/// The drive as its overlay's file says it now: to a monitor that is started in this boot of the host, or a later one.
enum class After { Kill, PowerCut };
inline Bytes stored_in_layers(const BlockFixture& drive, After after) {
  Bytes bytes = drive.on_disk(drive.config.base_paths.front());
  const OwnedFd file{::open(drive.config.path_on_host.c_str(), O_RDONLY | O_CLOEXEC)};
  const OverlayOrder order{
      .who = "it",
      .below = {.size_bytes = bytes.size(), .modified_ns = modified_ns(drive.config.base_paths.front()), .id = {}},
      .boot = after == After::Kill ? BlockFixture::must(read_boot_id()) : boot_of(1)};
  const Overlay overlay = BlockFixture::must(Overlay::open(file.get(), order));
  for (std::uint64_t at = 0; at < bytes.size();) {
    const Overlay::Run run = overlay.run(at, bytes.size() - at);
    if (run.is_present) {
      EXPECT_EQ(::pread(file.get(), &bytes[at], run.length, static_cast<off_t>(overlay.place_of(at))),
                static_cast<ssize_t>(run.length));
    }
    at += run.length;
  }
  return bytes;
}

}  // namespace mayfly::testing
