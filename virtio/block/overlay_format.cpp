#include "virtio/block/overlay_format.h"

#include "vmm/base/files.h"

#include <xxhash.h>

#include <bit>
#include <cstring>

namespace mayfly {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::array<char, 8> kOverlayMagic = {'M', 'a', 'y', 'f', 'l', 'y', 'O', 'v'};
constexpr std::uint64_t kMapPage = 4096;
/// Of writes of a header or a sector: more were never made, and a count that began anew would be an older one.
constexpr std::uint64_t kLargestCount = 1ULL << 63;
constexpr std::uint32_t kLargestEpoch = 1U << 31;
/// A jail has a copy of it, at the same place.
constexpr const char* kBootIdFile = "/proc/sys/kernel/random/boot_id";

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) noexcept {
  return (value + unit - 1) / unit * unit;
}

std::uint64_t checksum_of(const OverlayHeader& header) noexcept {
  return XXH3_64bits(&header, offsetof(OverlayHeader, checksum));
}

std::uint64_t checksum_of(const MapSector& sector, const OverlayId& id, std::uint64_t number) noexcept {
  std::uint64_t seed = 0;
  std::memcpy(&seed, id.data(), sizeof seed);
  const auto bytes = std::as_bytes(std::span{&sector, 1}).subspan(offsetof(MapSector, generation));
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed + number);
}

bool is_blank(const MapSector& sector) noexcept {
  static constexpr MapSector kBlank{};
  return std::memcmp(&sector, &kBlank, sizeof sector) == 0;
}

/// The header in a page, if one is there and whole.
std::optional<OverlayHeader> header_in(std::span<const std::byte> page) noexcept {
  OverlayHeader header;
  if (page.size() < sizeof header) return std::nullopt;
  std::memcpy(static_cast<void*>(&header), page.data(), sizeof header);
  if (header.magic != kOverlayMagic || header.checksum != checksum_of(header)) return std::nullopt;
  return header;
}

bool has_magic(std::span<const std::byte> page) noexcept {
  return page.size() >= kOverlayMagic.size() &&
         std::memcmp(page.data(), kOverlayMagic.data(), kOverlayMagic.size()) == 0;
}

bool has_sound_sizes(const OverlayHeader& header) noexcept {
  return std::has_single_bit(header.block_size) && header.block_size >= kOverlayBlockSize &&
         header.block_size <= kLargestOverlayBlock && header.drive_size <= kLargestLayeredDrive &&
         header.drive_size % 512 == 0 && header.drive_size == header.below.size_bytes &&
         header.sequence < kLargestCount && header.epoch < kLargestEpoch;
}

}  // namespace

OverlayLayout lay_out_overlay(std::uint64_t drive_size, std::uint32_t block_size) noexcept {
  OverlayLayout layout{.drive_size = drive_size, .block_size = block_size};
  layout.block_count = round_up(drive_size, block_size) / block_size;
  layout.volatile_offset = 2 * kOverlayHeaderRoom;
  layout.volatile_length = round_up(round_up(layout.block_count, 8) / 8, kMapPage);
  layout.sector_count = round_up(layout.block_count, MapSector::kBlocks) / MapSector::kBlocks;
  const std::uint64_t copy = round_up(layout.sector_count * sizeof(MapSector), kMapPage);
  layout.sectors_offset[0] = layout.volatile_offset + layout.volatile_length;
  layout.sectors_offset[1] = layout.sectors_offset[0] + copy;
  layout.data_offset = round_up(layout.sectors_offset[1] + copy, kLargestOverlayBlock);
  layout.file_size = layout.data_offset + layout.block_count * block_size;
  return layout;
}

void seal(OverlayHeader& header) noexcept {
  header.magic = kOverlayMagic;
  header.version = kOverlayVersion;
  header.checksum = checksum_of(header);
}

Result<OverlayHeader> decode_overlay_header(std::span<const std::byte> first, std::span<const std::byte> second,
                                            const std::string& who) {
  const auto one = header_in(first);
  const auto other = header_in(second);
  if (!one && !other) {
    if (has_magic(first) || has_magic(second))
      return fail(
          ErrorKind::InvalidArgument,
          "{} is an overlay whose header is damaged; delete it, and what the guest wrote with it, or give a copy", who);
    return fail(ErrorKind::InvalidArgument,
                "{} is no overlay; give the path of one, or of a file that does not exist yet, or leave base_path out "
                "for a raw image",
                who);
  }
  const OverlayHeader header = !other || (one && one->sequence > other->sequence) ? *one : *other;
  if (header.version != kOverlayVersion)
    return fail(ErrorKind::Unsupported, "{} is an overlay of format {}, and this Mayfly reads {}; use a later one", who,
                header.version, kOverlayVersion);
  if (!has_sound_sizes(header))
    return fail(ErrorKind::InvalidArgument, "{} is an overlay of a drive of {} bytes in blocks of {}, which none is",
                who, header.drive_size, header.block_size);
  return header;
}

void seal(MapSector& sector, const OverlayId& id, std::uint64_t number) noexcept {
  sector.checksum = checksum_of(sector, id, number);
}

std::optional<MapSector> choose_sector(const MapSector& first, const MapSector& second, const OverlayHeader& header,
                                       std::uint64_t number) noexcept {
  std::optional<MapSector> chosen;
  for (const MapSector* each : {&first, &second}) {
    MapSector read;
    if (!is_blank(*each)) {
      if (each->checksum != checksum_of(*each, header.id, number)) continue;  // torn, or never written
      // An epoch's header is stable before its first sector is written: the header that said so is lost, and what it
      // dropped would show again.
      if (each->epoch > header.epoch || each->generation >= kLargestCount) return std::nullopt;
      // A generation goes on through epochs, or a sector of an earlier one could count once more.
      read.generation = each->generation;
      if (each->epoch == header.epoch) read = *each;
    }
    if (!chosen || read.generation > chosen->generation) chosen = read;
  }
  return chosen;
}

Result<BootId> read_boot_id() {
  const auto refuse = [](std::string_view why) {
    return fail(ErrorKind::Unsupported,
                "an overlay needs the host's boot id, and {} {}; mount /proc there, or start the jail by mayfly-jailer",
                kBootIdFile, why);
  };
  const auto text = read_file(kBootIdFile, kBootIdFile, 64);
  if (!text) return refuse("cannot be read");
  BootId id{};
  std::size_t digits = 0;
  for (const char letter : *text) {
    if (letter == '-' || letter == '\n') continue;
    const int value = letter >= '0' && letter <= '9'   ? letter - '0'
                      : letter >= 'a' && letter <= 'f' ? letter - 'a' + 10
                                                       : -1;
    if (value < 0 || digits == 2 * id.size()) return refuse("has none");
    id[digits / 2] |= static_cast<std::byte>(digits % 2 == 0 ? value << 4 : value);
    ++digits;
  }
  if (digits != 2 * id.size() || id == kNoBoot || id == kEveryBoot) return refuse("has none");
  return id;
}

}  // namespace mayfly
