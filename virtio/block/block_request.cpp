#include "virtio/block/block_request.h"

#include "virtio/block/disk_image.h"
#include "virtio/vector_bytes.h"

#include <algorithm>
#include <numeric>

namespace mayfly {
namespace {

using RangeEntry = virtio_blk_discard_write_zeroes;
static_assert(sizeof(virtio_blk_outhdr) == 16);
static_assert(sizeof(RangeEntry) == 16);

std::uint64_t total(std::span<const iovec> buffers) noexcept {
  return std::accumulate(buffers.begin(), buffers.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const iovec& buffer) { return sum + buffer.iov_len; });
}

/// Takes the last byte off the back: the status.
std::byte* take_status(std::span<iovec>& writable) noexcept {
  if (writable.empty()) return nullptr;
  iovec& last = writable.back();
  auto* status = static_cast<std::byte*>(last.iov_base) + --last.iov_len;
  if (last.iov_len == 0) writable = writable.first(writable.size() - 1);
  return status;
}

bool lies_within(std::uint64_t sector, std::uint64_t count, std::uint64_t sectors) noexcept {
  return sector <= sectors && count <= sectors - sector;
}

/// Read and Write.
std::uint8_t check_transfer(BlockRequest& request, std::uint64_t sector, const BlockRules& rules) noexcept {
  request.length = total(request.data);
  if (request.length % kSectorSize != 0) return VIRTIO_BLK_S_IOERR;
  if (!lies_within(sector, request.length / kSectorSize, rules.sectors)) return VIRTIO_BLK_S_IOERR;
  request.offset = sector * kSectorSize;
  return VIRTIO_BLK_S_OK;
}

/// Discard and WriteZeroes: the ranges in the data.
std::uint8_t read_ranges(BlockRequest& request, std::span<iovec> data, const BlockRules& rules,
                         std::span<BlockRange, kMaximumBlockRanges> ranges) noexcept {
  const std::uint64_t length = total(data);
  const std::uint64_t count = length / sizeof(RangeEntry);
  if (length % sizeof(RangeEntry) != 0 || count == 0 || count > ranges.size()) return VIRTIO_BLK_S_IOERR;
  const std::uint32_t known = request.command == BlockCommand::WriteZeroes ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
  for (BlockRange& range : ranges.first(count)) {
    RangeEntry entry{};
    copy_from(data, std::as_writable_bytes(std::span{&entry, 1}));
    data = drop_front(data, sizeof entry);
    // 5.2.6.2: unknown flags, and unmap for a discard, are not supported; whatever else may be wrong.
    if ((entry.flags & ~known) != 0) return VIRTIO_BLK_S_UNSUPP;
    if (entry.num_sectors > kMaximumRangeSectors || !lies_within(entry.sector, entry.num_sectors, rules.sectors))
      return VIRTIO_BLK_S_IOERR;
    range = {.offset = entry.sector * kSectorSize,
             .length = entry.num_sectors * kSectorSize,
             .unmap = (entry.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0};
  }
  request.range_count = count;
  return VIRTIO_BLK_S_OK;
}

std::uint8_t check_ranges(BlockRequest& request, BlockCommand command, std::span<iovec> data, const BlockRules& rules,
                          std::span<BlockRange, kMaximumBlockRanges> ranges) noexcept {
  request.command = command;
  return rules.read_only ? std::uint8_t{VIRTIO_BLK_S_IOERR} : read_ranges(request, data, rules, ranges);
}

}  // namespace

BlockRequest parse_block_request(const BlockBuffers& buffers, const BlockRules& rules) noexcept {
  BlockRequest request;
  std::span<iovec> writable = buffers.writable;
  request.status = take_status(writable);
  request.refusal = VIRTIO_BLK_S_IOERR;
  virtio_blk_outhdr header{};
  if (request.status == nullptr || total(buffers.readable) < sizeof header) return request;
  copy_from(buffers.readable, std::as_writable_bytes(std::span{&header, 1}));
  const std::span<iovec> readable = drop_front(buffers.readable, sizeof header);

  switch (header.type) {
    case VIRTIO_BLK_T_IN:
      request.command = BlockCommand::Read;
      request.data = writable;
      request.refusal = check_transfer(request, header.sector, rules);
      break;
    case VIRTIO_BLK_T_OUT:
      request.command = BlockCommand::Write;
      request.data = readable;
      // 5.2.6.2: a read-only drive fails writes, and writes nothing.
      if (!rules.read_only) request.refusal = check_transfer(request, header.sector, rules);
      break;
    case VIRTIO_BLK_T_FLUSH:
      request.command = BlockCommand::Flush;
      request.refusal = VIRTIO_BLK_S_OK;
      break;
    case VIRTIO_BLK_T_DISCARD:
      request.refusal = VIRTIO_BLK_S_UNSUPP;
      if (rules.discard || rules.read_only)
        request.refusal = check_ranges(request, BlockCommand::Discard, readable, rules, buffers.ranges);
      break;
    case VIRTIO_BLK_T_WRITE_ZEROES:
      request.refusal = check_ranges(request, BlockCommand::WriteZeroes, readable, rules, buffers.ranges);
      break;
    case VIRTIO_BLK_T_GET_ID:
      request.command = BlockCommand::GetId;
      request.data = writable;
      request.length = total(writable);
      request.refusal = VIRTIO_BLK_S_OK;
      break;
    default:  // SCSI commands and barriers of old, zones, secure erase: not offered
      request.refusal = VIRTIO_BLK_S_UNSUPP;
      break;
  }
  return request;
}

}  // namespace mayfly
