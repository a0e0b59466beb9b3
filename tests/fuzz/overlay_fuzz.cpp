// What an overlay's file can be: any header and any maps, whose checksums are made right. It is opened as a machine opens
// it, in the same boot of the host and in another, settled and emptied; whatever it is, nothing crashes, and what opens
// shows the same when it is opened again.
//
// An input is a byte of plan, a header, and then what stands behind the headers' room.

#include "tests/fuzz/must.h"
#include "virtio/block/overlay.h"
#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

namespace mayfly {
namespace {

constexpr std::uint8_t kRepairHeader = 1;
constexpr std::uint8_t kRepairSectors = 2;
constexpr std::uint8_t kFits = 4;  // over the layer that it says
constexpr std::uint8_t kWholeLength = 8;
constexpr std::uint8_t kSettle = 16;
constexpr std::uint8_t kEmpty = 32;
constexpr std::uint8_t kUnordered = 64;
constexpr std::uint8_t kSecondCopy = 128;
/// Larger drives take longer to look through, and have nothing else.
constexpr std::uint64_t kLargestDrive = 1 << 26;
/// No file has seen as many as counts have room for, and where the last one is, the next one would be refused.
constexpr std::uint32_t kMostWrites = 1U << 30;

BootId boot_of(std::uint8_t number) {
  BootId boot{};
  boot.front() = static_cast<std::byte>(number);
  return boot;
}

std::vector<bool> present(const Overlay& overlay) {
  std::vector<bool> blocks;
  for (std::uint64_t block = 0; block < overlay.map().layout().block_count; ++block)
    blocks.push_back(overlay.map().is_present(block));
  return blocks;
}

class World {
 public:
  void play(std::span<const std::uint8_t> input) {
    if (input.empty()) return;
    const std::uint8_t plan = input.front();
    input = input.subspan(1);
    OverlayHeader header;
    std::memcpy(static_cast<void*>(&header), input.data(), std::min(input.size(), sizeof header));
    input = input.subspan(std::min(input.size(), sizeof header));
    std::vector<std::byte> rest{std::as_bytes(input).begin(), std::as_bytes(input).end()};
    header.drive_size %= kLargestDrive;
    if ((plan & kRepairHeader) != 0) repair(header);
    if ((plan & kRepairSectors) != 0) repair(header, rest);
    lay(plan, header, rest);

    OverlayOrder order{.who = "it", .boot = boot_of(1)};
    order.below.size_bytes = header.drive_size;
    if ((plan & kFits) != 0) order.below = header.below;
    order.access = (plan & kUnordered) != 0 ? OverlayAccess::Unordered : OverlayAccess::Ordered;
    look(order);
    auto overlay = Overlay::open(file_.get(), order);
    if (!overlay) return;
    const auto shown = present(*overlay);
    must(overlay->map().present_count() == static_cast<std::uint64_t>(std::ranges::count(shown, true)));
    must(shown == present(must(Overlay::open(file_.get(), order))));
    if ((plan & kSettle) != 0) {
      must(overlay->settle(file_.get()).has_value());
      must(overlay->map().is_durable());
      order.boot = boot_of(2);
      must(shown == present(must(Overlay::open(file_.get(), order))));
    }
    if ((plan & kEmpty) != 0) {
      auto last =
          must(Overlay::open(file_.get(), order));  // one has the file at a time: others have written the header
      must(last.empty(file_.get()).has_value());
      must(must(Overlay::open(file_.get(), order)).map().present_count() == 0);
    }
  }

 private:
  static void repair(OverlayHeader& header) {
    header.block_size = 4096U << header.block_size % 5;
    header.drive_size -= header.drive_size % 512;
    header.below.size_bytes = header.drive_size;
    header.sequence %= kMostWrites;
    header.epoch %= kMostWrites;
    seal(header);
  }
  /// The input's own place for sectors is the first copy, and what is behind it.
  static void repair(const OverlayHeader& header, std::vector<std::byte>& rest) {
    if (header.block_size < kOverlayBlockSize || header.block_size > kLargestOverlayBlock) return;
    const OverlayLayout layout = lay_out_overlay(header.drive_size, header.block_size);
    for (const std::uint64_t offset : layout.sectors_offset)
      for (std::uint64_t number = 0; number < layout.sector_count; ++number) {
        const std::uint64_t at = offset - layout.volatile_offset + number * sizeof(MapSector);
        if (at + sizeof(MapSector) > rest.size()) return;
        MapSector sector;
        std::memcpy(static_cast<void*>(&sector), &rest[at], sizeof sector);
        sector.generation %= kMostWrites;
        seal(sector, header.id, number);
        std::memcpy(&rest[at], &sector, sizeof sector);
      }
  }
  void lay(std::uint8_t plan, const OverlayHeader& header, std::span<const std::byte> rest) const {
    must(::ftruncate(file_.get(), 0) == 0);
    const bool sound = header.block_size >= kOverlayBlockSize && header.block_size <= kLargestOverlayBlock;
    if ((plan & kWholeLength) != 0 && sound)
      must(::ftruncate(file_.get(),
                       static_cast<off_t>(lay_out_overlay(header.drive_size, header.block_size).file_size)) == 0);
    put(std::as_bytes(std::span{&header, 1}), (plan & kSecondCopy) != 0 ? kOverlayHeaderRoom : 0);
    put(rest, 2 * kOverlayHeaderRoom);
  }
  void put(std::span<const std::byte> bytes, std::uint64_t offset) const {
    must(::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
         static_cast<ssize_t>(bytes.size()));
  }
  /// A reader changes nothing.
  void look(OverlayOrder order) const {
    order.access = OverlayAccess::ReadOnly;
    const auto one = Overlay::open(file_.get(), order);
    const auto other = Overlay::open(file_.get(), order);
    must(one.has_value() == other.has_value());
    if (one) must(present(*one) == present(*other));
  }

  OwnedFd file_{::memfd_create("overlay", MFD_CLOEXEC)};
};

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static mayfly::World world;
  world.play({data, size});
  return 0;
}
