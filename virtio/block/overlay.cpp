#include "virtio/block/overlay.h"

#include "vmm/base/files.h"
#include "vmm/base/printable.h"
#include "vmm/base/random.h"
#include "vmm/base/try.h"
#include "vmm/base/zeros.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace mayfly {
namespace {

/// A map is read in pieces of this.
constexpr std::uint64_t kReadAtOnce = 64 * 1024;

std::unexpected<Error> map_error(const std::string& who) {
  return fail_errno(ErrorKind::System, "{}: its map cannot be written", who);
}

std::unexpected<Error> empty_error() { return fail_errno(ErrorKind::System, "cannot empty an overlay"); }

/// The stretch of data in [from, end) that comes first; empty where there is none. Error: the file's.
struct DataStretch {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};
Result<DataStretch> next_data(int fd, std::uint64_t from, std::uint64_t end, const std::string& who) {
  const off_t begin = ::lseek(fd, static_cast<off_t>(from), SEEK_DATA);
  if (begin < 0 && errno == ENXIO) return DataStretch{end, end};
  if (begin < 0) return fail_errno(ErrorKind::System, "{} cannot be searched for data", who);
  if (static_cast<std::uint64_t>(begin) >= end) return DataStretch{end, end};
  const off_t hole = ::lseek(fd, begin, SEEK_HOLE);
  if (hole < 0) return fail_errno(ErrorKind::System, "{} cannot be searched for holes", who);
  return DataStretch{static_cast<std::uint64_t>(begin), std::min(static_cast<std::uint64_t>(hole), end)};
}

Status read_whole(int fd, std::span<std::byte> bytes, std::uint64_t offset, const std::string& who) {
  if (read_all_at(fd, bytes, offset) == bytes.size()) return {};
  if (errno != 0) return fail_errno(ErrorKind::System, "{}: its map cannot be read", who);
  return fail(ErrorKind::InvalidArgument, "{} is an overlay that was cut short; give a copy of it that is whole", who);
}

/// A file's time of change, put back behind writes that change no block: a load compares it with the snapshot's. Who is
/// neither the file's owner nor root may not do that, and leaves another time.
class KeptTime {
 public:
  explicit KeptTime(int fd) noexcept : fd_(fd), is_due_(::fstat(fd, &status_) == 0) {}
  KeptTime(const KeptTime&) = delete;
  KeptTime& operator=(const KeptTime&) = delete;
  ~KeptTime() { put_back(); }
  /// Now: a sync that follows makes it durable.
  void put_back() noexcept {
    if (!std::exchange(is_due_, false)) return;
    const std::array<timespec, 2> times{timespec{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, status_.st_mtim};
    (void)::futimens(fd_, times.data());
  }

 private:
  int fd_;
  struct stat status_ = {};
  bool is_due_;
};

Result<bool> has_data(int fd, const std::string& who) {
  struct stat status = {};
  if (::fstat(fd, &status) != 0) return fail_errno(ErrorKind::System, "{} cannot be looked at", who);
  const auto size = static_cast<std::uint64_t>(std::max<off_t>(status.st_size, 0));
  if (size == 0) return false;
  const auto data = TRY(next_data(fd, 0, size, who));
  return data.begin < size;
}

std::string describe_change(const LayerIdentity& then, const LayerIdentity& now) {
  if (then.size_bytes != now.size_bytes)
    return fmt::format("it had {} bytes then, and has {} now; give the layers that it was made over", then.size_bytes,
                       now.size_bytes);
  if (then.id != now.id)
    return fmt::format("that was {}; give the layers that it was made over (mayfly drive info tells them apart)",
                       then.id == OverlayId{} ? "a raw image" : "overlay " + hexadecimal_digits(then.id));
  return fmt::format(
      "that has changed since, and blocks of both do not belong together; give it as it was, delete the overlay or, if "
      "only the time of change is another one, set it back: touch -d @{}.{:09}",
      then.modified_ns / 1'000'000'000, then.modified_ns % 1'000'000'000);
}

}  // namespace

Result<Overlay> Overlay::open(int fd, const OverlayOrder& order) {
  const bool holds_any = TRY(has_data(fd, order.who));
  if (!holds_any) return make(fd, order);
  auto pages = std::make_unique<std::array<std::byte, 2 * kOverlayHeaderRoom>>();  // zeros, where the file is shorter
  errno = 0;
  if (read_all_at(fd, *pages, 0) < pages->size() && errno != 0)
    return fail_errno(ErrorKind::System, "{} cannot be read", order.who);
  const std::span<const std::byte> both{*pages};
  const auto header =
      TRY(decode_overlay_header(both.first(kOverlayHeaderRoom), both.subspan(kOverlayHeaderRoom), order.who));
  if (order.checks_below && header.below != order.below)
    return fail(ErrorKind::InvalidArgument, "{} is an overlay of another layer than the one below it: {}", order.who,
                describe_change(header.below, order.below));
  if (header.is_layer != 0 && order.access != OverlayAccess::ReadOnly)
    return fail(ErrorKind::InvalidArgument,
                "{} was frozen as a layer, which others may lie over, and is only read: give the drive a new overlay "
                "over it (base_paths; of a snapshot drive_overrides, or mayfly restore --drive ID=PATH)",
                order.who);
  auto map = TRY(OverlayMap::make(header));
  Overlay overlay{header, std::move(map)};
  TRY(overlay.load(fd, order));
  if (order.access == OverlayAccess::ReadOnly) return overlay;
  const BootId& boot = order.access == OverlayAccess::Ordered ? order.boot : kEveryBoot;
  if (overlay.header_.boot != boot) TRY(overlay.adopt(fd, boot, order.who));
  return overlay;
}

Result<Overlay> Overlay::make(int fd, const OverlayOrder& order) {
  if (order.access == OverlayAccess::ReadOnly)
    return fail(ErrorKind::InvalidArgument,
                "{} is empty, and a drive that is only read makes no overlay; leave it out of the drive's layers",
                order.who);
  if (order.below.size_bytes > kLargestLayeredDrive)
    return fail(ErrorKind::TooLarge, "{}: the drive has {} bytes, and one with an overlay at most {}", order.who,
                order.below.size_bytes, kLargestLayeredDrive);
  OverlayHeader header;
  header.block_size = order.block_size;
  header.drive_size = order.below.size_bytes;
  header.below = order.below;
  header.epoch = 1;
  header.boot = order.access == OverlayAccess::Ordered ? order.boot : kEveryBoot;
  TRY(fill_with_random(header.id, "make an overlay"));
  auto map = TRY(OverlayMap::make(header));
  Overlay overlay{header, std::move(map)};
  // The size first: a file that is all a hole is no overlay yet, and one with a header is whole.
  if (::ftruncate(fd, static_cast<off_t>(overlay.map_.layout().file_size)) != 0)
    return fail_errno(ErrorKind::System,
                      "{} cannot be made {} bytes long (it is sparse, and takes space as the guest "
                      "writes)",
                      order.who, overlay.map_.layout().file_size);
  TRY(overlay.write_header(fd, order.who));
  return overlay;
}

Status Overlay::load(int fd, const OverlayOrder& order) {
  const OverlayLayout& layout = map_.layout();
  struct stat status = {};
  if (::fstat(fd, &status) != 0) return fail_errno(ErrorKind::System, "{} cannot be looked at", order.who);
  if (static_cast<std::uint64_t>(status.st_size) < layout.file_size)
    return fail(ErrorKind::InvalidArgument,
                "{} is an overlay that was cut short: it has {} bytes of {}; give a copy of it that is whole",
                order.who, status.st_size, layout.file_size);
  TRY(load_durable(fd, order.who));
  if (header_.boot != order.boot && header_.boot != kEveryBoot) return {};
  const std::uint64_t end = layout.volatile_offset + layout.volatile_length;
  std::vector<std::byte> piece(kReadAtOnce);
  for (std::uint64_t at = layout.volatile_offset; at < end;) {
    const auto data = TRY(next_data(fd, at, end, order.who));
    if (data.begin == data.end) break;
    const auto bytes = std::span{piece}.first(std::min<std::uint64_t>(piece.size(), data.end - data.begin));
    TRY(read_whole(fd, bytes, data.begin, order.who));
    map_.load_volatile(data.begin - layout.volatile_offset, bytes);
    at = data.begin + bytes.size();
  }
  return {};
}

/// Both copies, from one piece that is no hole in both to the next.
Status Overlay::load_durable(int fd, const std::string& who) {
  const OverlayLayout& layout = map_.layout();
  constexpr std::uint64_t kSectorsAtOnce = kReadAtOnce / sizeof(MapSector);
  std::array<std::vector<MapSector>, 2> copies;
  for (std::uint64_t first = 0;;) {
    std::uint64_t found = layout.sector_count;
    for (const std::uint64_t offset : layout.sectors_offset) {
      const auto data =
          TRY(next_data(fd, offset + first * sizeof(MapSector), offset + layout.sector_count * sizeof(MapSector), who));
      found = std::min(found, (data.begin - offset) / sizeof(MapSector));
    }
    if (found == layout.sector_count) return {};
    first = found;
    const std::uint64_t count = std::min(kSectorsAtOnce, layout.sector_count - first);
    for (std::size_t copy = 0; copy < copies.size(); ++copy) {
      copies[copy].resize(count);
      TRY(read_whole(fd, std::as_writable_bytes(std::span{copies[copy]}),
                     layout.sectors_offset[copy] + first * sizeof(MapSector), who));
    }
    for (std::uint64_t i = 0; i < count; ++i)
      if (!map_.load(first + i, copies[0][i], copies[1][i]))
        return fail(
            ErrorKind::InvalidArgument,
            "{} is an overlay whose map is damaged (sector {}); delete it, and what the guest wrote with it, or "
            "give a copy",
            who, first + i);
    first += count;
  }
}

/// Makes the volatile map count for `boot`. It is made right first, or what an earlier boot left there would count.
Status Overlay::adopt(int fd, const BootId& boot, const std::string& who) {
  KeptTime time{fd};
  const bool was_unordered = header_.boot == kEveryBoot;
  if (was_unordered) {
    // Nothing ordered what is there; from now on the durable map has to say it.
    if (auto settled = settle(fd); !settled) return propagate(settled, who);
  }
  TRY(write_volatile(fd, who));
  // A power cut must not show this boot's header, or one for all boots, with an earlier boot's map. The map of one boot
  // does not count after a power cut.
  if (boot == kEveryBoot && ::fsync(fd) != 0) return map_error(who);
  header_.boot = boot;
  TRY(write_header(fd, who));
  time.put_back();
  if (boot != kEveryBoot && (was_unordered || map_.has_sectors()) && ::fsync(fd) != 0) return map_error(who);
  return {};
}

Status Overlay::write_volatile(int fd, const std::string& who) const {
  const OverlayLayout& layout = map_.layout();
  const std::span<const std::byte> bytes = map_.whole_volatile().bytes;
  const std::uint64_t end = layout.volatile_offset + layout.volatile_length;
  std::uint64_t data_end = 0;  // up to where the file was looked at, and there is data
  std::uint64_t data_begin = 0;
  for (std::uint64_t at = layout.volatile_offset; at < end; at += kOverlayHeaderRoom) {
    const auto page = bytes.subspan(at - layout.volatile_offset, kOverlayHeaderRoom);
    if (at >= data_end) {
      const auto data = TRY(next_data(fd, at, end, who));
      data_begin = data.begin;
      data_end = data.end;
    }
    if (is_all_zeros(page) && at + kOverlayHeaderRoom <= data_begin) continue;
    if (!write_all_at(fd, page, at)) return map_error(who);
  }
  return {};
}

/// Over the copy that counts less: a torn write leaves the other one.
Status Overlay::write_header(int fd, const std::string& who) {
  ++header_.sequence;
  seal(header_);
  const std::uint64_t at = (header_.sequence & 1) * kOverlayHeaderRoom;
  if (write_all_at(fd, std::as_bytes(std::span{&header_, 1}), at)) return {};
  return fail_errno(ErrorKind::System, "{}: its header cannot be written", who);
}

Overlay::Run Overlay::run(std::uint64_t offset, std::uint64_t length) const noexcept {
  const OverlayLayout& layout = map_.layout();
  const std::uint64_t block = offset / layout.block_size;
  const std::uint64_t last = (offset + length - 1) / layout.block_size;
  const std::uint64_t end = (block + map_.run(block, last - block + 1)) * layout.block_size;
  return {.is_present = map_.is_present(block), .length = std::min(end - offset, length)};
}

Status Overlay::settle(int fd) {
  if (::fsync(fd) != 0) return fail_errno(ErrorKind::System, "cannot put an overlay on stable storage");
  return settle_map(fd);
}

Status Overlay::settle_map(int fd) {
  const auto failed = [] { return fail_errno(ErrorKind::System, "cannot put an overlay's map on stable storage"); };
  if (map_.is_durable()) return {};
  map_.capture();
  for (auto piece = map_.next_piece(0); piece; piece = map_.next_piece(piece->next))
    if (!write_all_at(fd, piece->write.bytes, piece->write.offset)) return failed();
  if (::fsync(fd) != 0) return failed();
  map_.captured();
  return {};
}

Status Overlay::become_layer(int fd, LayerId id) {
  if (id == LayerId::Renewed) {
    TRY(fill_with_random(header_.id, "name a layer"));
    map_.renew(header_.id);
    TRY(settle(fd));
  }
  KeptTime time{fd};
  header_.is_layer = 1;
  header_.boot = kNoBoot;
  TRY(write_header(fd, "the overlay that becomes a layer"));
  time.put_back();
  return ::fsync(fd) == 0 ? Status{} : fail_errno(ErrorKind::System, "cannot put a layer on stable storage");
}

Status Overlay::become_top(int fd, const BootId& boot) {
  KeptTime time{fd};
  header_.is_layer = 0;
  header_.boot = boot;
  TRY(write_header(fd, "the overlay that is to be no layer"));
  time.put_back();
  return ::fsync(fd) == 0 ? Status{}
                          : fail_errno(ErrorKind::System, "cannot put on stable storage that it is no layer");
}

Status Overlay::empty(int fd) {
  const OverlayHeader before = header_;
  const std::string who = "emptying an overlay";
  // No map counts any more: neither the volatile one, nor a sector of the earlier epoch.
  ++header_.epoch;
  header_.boot = kNoBoot;
  auto written = write_header(fd, who);
  if (written && map_.has_sectors() && before.boot != kEveryBoot && ::fsync(fd) != 0) written = empty_error();
  if (!written) {
    const std::uint64_t sequence = header_.sequence;
    header_ = before;
    header_.sequence = sequence;
    (void)write_header(fd, who);  // if this fails, too, the overlay is empty when it is opened next
    return written;
  }
  map_.clear(header_.epoch);
  TRY(drop_content(fd, who));
  header_.boot = before.boot;
  return write_header(fd, who);
}

/// Emptied: what is in the file besides headers and durable map. The volatile map must go, since it is about to count again.
/// Blocks only take space: no map says that they are there, and the first write of one writes all of it.
Status Overlay::drop_content(int fd, const std::string& who) const {
  const OverlayLayout& layout = map_.layout();
  const auto punch = [fd](std::uint64_t offset, std::uint64_t length) {
    constexpr int kMode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return length == 0 || ::fallocate(fd, kMode, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0;
  };
  if (!punch(layout.volatile_offset, layout.volatile_length)) {
    if (errno != EOPNOTSUPP) return empty_error();
    return write_volatile(fd, who);
  }
  if (!punch(layout.data_offset, layout.file_size - layout.data_offset)) return empty_error();
  return {};
}

}  // namespace mayfly
