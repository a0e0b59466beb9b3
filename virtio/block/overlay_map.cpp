#include "virtio/block/overlay_map.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace mayfly {
namespace {

/// Zeros, which take memory where they are written to.
Mapping zeroed(std::uint64_t length) noexcept {
  const auto bytes = static_cast<std::size_t>(std::max<std::uint64_t>(length, 1));
  return Mapping{::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
                 bytes};
}

/// Calls `act(byte, mask)` for the bits of each byte that [first, first + count) covers.
template <typename Act>
void for_bytes(std::span<std::byte> map, std::uint64_t first, std::uint64_t count, Act act) noexcept {
  const std::uint64_t end = first + count;
  while (first < end) {
    const std::uint64_t in_byte = std::min<std::uint64_t>(8 - first % 8, end - first);
    act(first / 8, map[first / 8], static_cast<std::byte>(((1U << in_byte) - 1) << (first % 8)));
    first += in_byte;
  }
}

}  // namespace

Result<OverlayMap> OverlayMap::make(const OverlayHeader& header) {
  OverlayMap map;
  map.layout_ = lay_out_overlay(header.drive_size, header.block_size);
  map.id_ = header.id;
  map.epoch_ = header.epoch;
  map.present_ = zeroed(map.layout_.volatile_length);
  map.recorded_ = zeroed(map.layout_.volatile_length);
  map.sectors_ = zeroed(map.layout_.sector_count * sizeof(MapSector));
  if (!map.present_ || !map.recorded_ || !map.sectors_)
    return fail_errno(ErrorKind::System, "no memory for the map of an overlay");
  map.dirty_.resize(map.layout_.sector_count);
  map.pending_.resize(map.layout_.sector_count);
  return map;
}

std::uint64_t OverlayMap::run(std::uint64_t block, std::uint64_t most) const noexcept {
  const std::span<const std::byte> map = present_.bytes();
  const bool there = is_present(block);
  const std::byte all = there ? std::byte{0xFF} : std::byte{0};
  const std::uint64_t end = block + std::min(most, layout_.block_count - block);
  std::uint64_t at = block + 1;
  while (at < end) {
    if (at % 8 == 0 && map[at / 8] == all)
      at += 8;
    else if (is_present(at) == there)
      ++at;
    else
      break;
  }
  return std::min(at, end) - block;
}

std::uint64_t OverlayMap::present_count() const noexcept {
  std::uint64_t count = 0;
  for (const std::byte byte : present_.bytes())
    count += static_cast<std::uint64_t>(std::popcount(std::to_integer<unsigned>(byte)));
  return count;
}

OverlayMap::Write OverlayMap::record(std::uint64_t first, std::uint64_t count) noexcept {
  const std::span<std::byte> map = recorded_.bytes();
  for_bytes(map, first, count, [](std::uint64_t, std::byte& byte, std::byte mask) { byte |= mask; });
  const std::uint64_t begin = first / 8;
  const std::uint64_t end = (first + count + 7) / 8;
  return {layout_.volatile_offset + begin, map.subspan(begin, end - begin)};
}

void OverlayMap::mark_dirty(std::uint64_t sector) noexcept {
  if (dirty_[sector]) return;
  dirty_[sector] = true;
  ++dirty_count_;
}

void OverlayMap::publish(std::uint64_t first, std::uint64_t count) noexcept {
  for_bytes(present_.bytes(), first, count, [](std::uint64_t, std::byte& byte, std::byte mask) { byte |= mask; });
  for (std::uint64_t sector = first / MapSector::kBlocks; sector * MapSector::kBlocks < first + count; ++sector)
    mark_dirty(sector);
}

void OverlayMap::forget(std::uint64_t first, std::uint64_t count) noexcept {
  const std::span<const std::byte> present = present_.bytes();
  for_bytes(recorded_.bytes(), first, count,
            [&](std::uint64_t at, std::byte& byte, std::byte mask) { byte = (byte & ~mask) | (present[at] & mask); });
}

void OverlayMap::capture() noexcept {
  const std::span<const std::byte> present = present_.bytes();
  for (std::uint64_t number = 0; number < layout_.sector_count; ++number) {
    if (!dirty_[number] && !pending_[number]) continue;
    MapSector& sector = sectors()[number];
    // A capture whose writing failed may have torn the copy that it wrote; the other one still counts.
    if (!pending_[number]) ++sector.generation;
    sector.epoch = epoch_;
    const std::uint64_t begin = number * MapSector::kBitmapBytes;
    std::memcpy(sector.bitmap.data(), &present[begin], std::min(present.size() - begin, sector.bitmap.size()));
    seal(sector, id_, number);
    pending_[number] = true;
    dirty_[number] = false;
    unconfirmed_ = true;
  }
  dirty_count_ = 0;
}

std::optional<OverlayMap::Piece> OverlayMap::next_piece(std::uint64_t from) const noexcept {
  while (from < layout_.sector_count && !pending_[from]) ++from;
  if (from == layout_.sector_count) return std::nullopt;
  const std::size_t copy = copy_of(sectors()[from].generation);
  std::uint64_t end = from + 1;
  while (end < layout_.sector_count && pending_[end] && copy_of(sectors()[end].generation) == copy) ++end;
  return Piece{.write = {.offset = layout_.sectors_offset[copy] + from * sizeof(MapSector),
                         .bytes = std::as_bytes(sectors().subspan(from, end - from))},
               .next = end};
}

void OverlayMap::captured() noexcept {
  has_sectors_ |= unconfirmed_;
  std::fill(pending_.begin(), pending_.end(), false);
  unconfirmed_ = false;
}

bool OverlayMap::load(std::uint64_t number, const MapSector& first, const MapSector& second) noexcept {
  OverlayHeader header;
  header.id = id_;
  header.epoch = epoch_;
  const auto chosen = choose_sector(first, second, header, number);
  if (!chosen) return false;
  sectors()[number] = *chosen;
  has_sectors_ |= chosen->generation != 0;
  // Bits beyond the last block stand for nothing.
  const std::uint64_t begin = number * MapSector::kBlocks;
  const std::uint64_t count = std::min(MapSector::kBlocks, layout_.block_count - begin);
  for (const Mapping* each : {&present_, &recorded_})
    for_bytes(each->bytes(), begin, count, [&](std::uint64_t at, std::byte& byte, std::byte mask) {
      byte |= chosen->bitmap[at - number * MapSector::kBitmapBytes] & mask;
    });
  return true;
}

void OverlayMap::load_volatile(std::uint64_t at, std::span<const std::byte> bytes) noexcept {
  const std::span<std::byte> present = present_.bytes();
  const std::span<std::byte> recorded = recorded_.bytes();
  for (const std::byte read : bytes) {
    if (8 * at >= layout_.block_count) return;
    const std::uint64_t in_byte = std::min<std::uint64_t>(8, layout_.block_count - 8 * at);
    const std::byte valid = read & static_cast<std::byte>((1U << in_byte) - 1);
    if ((valid & ~present[at]) != std::byte{0}) mark_dirty(8 * at / MapSector::kBlocks);
    present[at] |= valid;
    recorded[at] |= valid;
    ++at;
  }
}

void OverlayMap::renew(const OverlayId& id) noexcept {
  id_ = id;
  for (std::uint64_t sector = 0; sector < layout_.sector_count; ++sector)
    if (sectors()[sector].generation != 0) mark_dirty(sector);
}

void OverlayMap::clear(std::uint32_t epoch) noexcept {
  epoch_ = epoch;
  for (const Mapping* each : {&present_, &recorded_})
    (void)::madvise(each->address(), each->length(), MADV_DONTNEED);  // private and anonymous: zeros
  // The file's sectors of earlier epochs say nothing, so nothing is to be written.
  std::fill(dirty_.begin(), dirty_.end(), false);
  std::fill(pending_.begin(), pending_.end(), false);
  dirty_count_ = 0;
  unconfirmed_ = false;
}

}  // namespace mayfly
