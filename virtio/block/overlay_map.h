#pragma once

#include "virtio/block/overlay_format.h"
#include "vmm/base/mapping.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

/// Which blocks an overlay has, in memory; and what is to be written of that, when.
///
///   if (!map.is_present(block)) {                 // a first write: data first, then
///     write(map.record(block, 1));                //   the volatile map,
///     map.publish(block, 1);                      //   and from here on it is there
///   }
///
///   map.capture();                                // a flush: what is there by now
///   sync();                                       //   data,
///   for (auto piece = map.next_piece(0); piece; piece = map.next_piece(piece->next)) write(piece->write);
///   sync();                                       //   and that it is there
///   map.captured();
///
/// Whoever writes a block holds it alone, from before its data is written until it is published or forgotten.
/// Pure: no file is touched. Not locked.
namespace mayfly {

class OverlayMap {
 public:
  /// A write to the overlay's file. The bytes are the map's own, and may change until they are written: bits are then
  /// added for blocks whose data is written.
  struct Write {
    std::uint64_t offset = 0;
    std::span<const std::byte> bytes{};
  };
  /// Of a capture: sectors that lie side by side; the next one is looked for from `next` on.
  struct Piece {
    Write write{};
    std::uint64_t next = 0;
  };

  /// An empty one. Error: no address space.
  [[nodiscard]] static Result<OverlayMap> make(const OverlayHeader& header);

  [[nodiscard]] const OverlayLayout& layout() const noexcept { return layout_; }
  [[nodiscard]] bool is_present(std::uint64_t block) const noexcept { return bit(present_, block); }
  /// How many blocks from `block` on, at most `most` and at least one, are there as it is, or are not there as it is.
  [[nodiscard]] std::uint64_t run(std::uint64_t block, std::uint64_t most) const noexcept;
  [[nodiscard]] std::uint64_t present_count() const noexcept;

  /// Notes that the data of these blocks is written; what is to be written of the volatile map then.
  [[nodiscard]] Write record(std::uint64_t first, std::uint64_t count) noexcept;
  /// From now on they are there.
  void publish(std::uint64_t first, std::uint64_t count) noexcept;
  /// Takes a record() back: what it gave could not be written.
  void forget(std::uint64_t first, std::uint64_t count) noexcept;

  /// Whether the durable map lacks nothing.
  [[nodiscard]] bool is_durable() const noexcept { return dirty_count_ == 0 && !unconfirmed_; }
  /// Keeps what is there now for next_piece(). After a capture whose writing failed, another one repeats it.
  void capture() noexcept;
  /// The first captured sectors from `from` on.
  [[nodiscard]] std::optional<Piece> next_piece(std::uint64_t from) const noexcept;
  /// All pieces are on stable storage.
  void captured() noexcept;

  // --- For who opens and empties the file

  /// Takes over a sector of the durable map. False: both copies are damaged.
  [[nodiscard]] bool load(std::uint64_t sector, const MapSector& first, const MapSector& second) noexcept;
  /// Takes over what the volatile map says from byte `at` on, which the durable map may lack.
  void load_volatile(std::uint64_t at, std::span<const std::byte> bytes) noexcept;
  /// The volatile map as it is to be, whole.
  [[nodiscard]] Write whole_volatile() const noexcept { return {layout_.volatile_offset, recorded_.bytes()}; }
  /// Whether any sector of the durable map was ever written.
  [[nodiscard]] bool has_sectors() const noexcept { return has_sectors_; }
  /// Of another overlay from now on: all of its sectors are to be written, since their checksums are of its id.
  void renew(const OverlayId& id) noexcept;
  /// No block is there any more. Sectors go on counting their generations.
  void clear(std::uint32_t epoch) noexcept;

 private:
  OverlayMap() = default;
  [[nodiscard]] static bool bit(const Mapping& map, std::uint64_t at) noexcept {
    return (std::to_integer<unsigned>(map.bytes()[at / 8]) >> (at % 8) & 1) != 0;
  }
  [[nodiscard]] std::span<MapSector> sectors() const noexcept {
    return {static_cast<MapSector*>(sectors_.address()), layout_.sector_count};
  }
  void mark_dirty(std::uint64_t sector) noexcept;

  OverlayLayout layout_;
  OverlayId id_{};
  std::uint32_t epoch_ = 0;
  Mapping present_;   // a bit a block
  Mapping recorded_;  // the volatile map: what is there, and what is about to be
  Mapping sectors_;   // the durable map, as captured last
  // A bit a sector: changed since it was captured; captured, and perhaps not written.
  std::vector<bool> dirty_;
  std::vector<bool> pending_;
  std::uint64_t dirty_count_ = 0;
  bool unconfirmed_ = false;  // pending_ has any
  bool has_sectors_ = false;
};

}  // namespace mayfly
