#pragma once

#include "vmm/base/error.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

/// An overlay's file: what a guest has changed of the drive below it.
///
///   0        header, two copies: the one with the higher sequence counts
///   8192     volatile map: a bit for each block that the overlay has, for as long as the host is not started again
///   then     durable map, two copies of each sector: the one with the higher generation counts
///   then     blocks, each at its place in the drive; holes where the overlay has zeros, or has none (or what a revert has
///            dropped, where the file system punches no holes)
///
/// Why two maps: a block may be said to be there on stable storage only after its data is there, or a power cut would
/// show a hole in place of what the layer below has. So the durable map is written when a guest flushes, between two
/// syncs. But a monitor may be killed without a power cut, and what it wrote is then in the page cache, as it is of a
/// plain drive: the volatile map is written, and not synced, before each write of new blocks is answered. It counts
/// while the host has not been started again since, which its boot id tells.
///
/// Why two copies: a sector that is written when the power goes may be torn.
///
/// Why no third state for discarded blocks: a block that is there and has no data reads as zeros.
///
/// Pure functions and plain values. All numbers are little-endian.
namespace mayfly {

/// Random, so that no two overlays share it; zeros stand for a raw image.
using OverlayId = std::array<std::byte, 16>;
/// Of the host's kernel: another one after each start.
using BootId = std::array<std::byte, 16>;

/// Whose volatile map counts: nobody's.
inline constexpr BootId kNoBoot{};
/// That of every boot: the drive's writes are not ordered (cache_type Unsafe), and a power cut may mix them up anyway.
inline constexpr BootId kEveryBoot = [] {
  BootId all{};
  all.fill(std::byte{0xFF});
  return all;
}();

/// What an overlay was made over; another file's content would show through it as nonsense.
struct LayerIdentity {
  std::uint64_t size_bytes = 0;  ///< Of the drive.
  std::int64_t modified_ns = 0;  ///< Of the file's data, since 1970; 0: a block device, which has none.
  OverlayId id{};
  friend bool operator==(const LayerIdentity&, const LayerIdentity&) = default;
};

/// As stored.
struct OverlayHeader {
  std::array<char, 8> magic{};
  std::uint32_t version = 0;
  std::uint32_t block_size = 0;
  std::uint64_t drive_size = 0;
  OverlayId id{};
  LayerIdentity below{};
  std::uint64_t sequence = 0;  ///< Of this copy.
  std::uint32_t epoch = 0;     ///< Sectors of the durable map that have another one say nothing.
  std::uint32_t is_layer = 0;  ///< Not 0: others lie over it, and nobody writes it any more.
  BootId boot{};               ///< Whose volatile map counts.
  std::uint64_t checksum = 0;  ///< Of all before it.
};
static_assert(sizeof(OverlayHeader) == 112);

/// A sector of the durable map, as stored. One of zeros alone was never written.
struct MapSector {
  static constexpr std::size_t kBitmapBytes = 488;
  static constexpr std::uint64_t kBlocks = kBitmapBytes * 8;
  std::uint64_t checksum = 0;  ///< Of all behind it, with the overlay's id and the sector's number.
  std::uint64_t generation = 0;
  std::uint32_t epoch = 0;
  std::uint32_t reserved = 0;
  std::array<std::byte, kBitmapBytes> bitmap{};
};
static_assert(sizeof(MapSector) == 512);

inline constexpr std::uint32_t kOverlayVersion = 1;
/// What guests write in one piece: their page, and their file system's block. A first write of such a piece needs
/// nothing of the layer below. Larger blocks make a smaller map, which costs nothing to speak of as it is.
inline constexpr std::uint32_t kOverlayBlockSize = 4096;
inline constexpr std::uint32_t kLargestOverlayBlock = 64 * 1024;
/// Of a drive with an overlay: its map is then at most 512 MiB of address space, used as far as the guest writes.
inline constexpr std::uint64_t kLargestLayeredDrive = 1ULL << 44;
/// A header has a page, so that one torn write does not take both copies.
inline constexpr std::uint64_t kOverlayHeaderRoom = 4096;

/// Where things are in an overlay's file.
struct OverlayLayout {
  std::uint64_t drive_size = 0;
  std::uint32_t block_size = 0;
  std::uint64_t block_count = 0;
  std::uint64_t volatile_offset = 0;
  std::uint64_t volatile_length = 0;  ///< Whole pages.
  std::uint64_t sector_count = 0;
  std::array<std::uint64_t, 2> sectors_offset{};  ///< Of the two copies of the durable map.
  std::uint64_t data_offset = 0;                  ///< Aligned to the largest block.
  std::uint64_t file_size = 0;
};

/// `block_size` is a power of two from 4096 to kLargestOverlayBlock, `drive_size` at most kLargestLayeredDrive.
[[nodiscard]] OverlayLayout lay_out_overlay(std::uint64_t drive_size, std::uint32_t block_size) noexcept;

/// Fills magic, version and checksum.
void seal(OverlayHeader& header) noexcept;
/// The header that counts of the two copies' pages. Errors, which begin with `who`: no overlay, of a later version,
/// damaged, of sizes that no overlay has.
[[nodiscard]] Result<OverlayHeader> decode_overlay_header(std::span<const std::byte> first,
                                                          std::span<const std::byte> second, const std::string& who);

/// Fills the checksum of sector `number`.
void seal(MapSector& sector, const OverlayId& id, std::uint64_t number) noexcept;
/// The sector that counts of two copies: an empty one where neither was written in this epoch. nullopt: both are
/// damaged, or one is of an epoch that the header does not know, or of a generation that none has.
[[nodiscard]] std::optional<MapSector> choose_sector(const MapSector& first, const MapSector& second,
                                                     const OverlayHeader& header, std::uint64_t number) noexcept;
/// Which copy is written when a sector gets this generation: not the one that counted before.
[[nodiscard]] constexpr std::size_t copy_of(std::uint64_t generation) noexcept { return generation & 1; }

/// The host's boot id. Error: the file that has it cannot be read, with the remedy.
[[nodiscard]] Result<BootId> read_boot_id();

}  // namespace mayfly
