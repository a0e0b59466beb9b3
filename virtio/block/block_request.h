#pragma once

#include <linux/virtio_blk.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

/// What a driver asks of a drive, read out of a descriptor chain and checked (virtio 1.2, 5.2.6).
///
///   const BlockRequest request =
///       parse_block_request({.readable = ..., .writable = ..., .ranges = slot.ranges}, rules);
///   if (request.status == nullptr) ...                     // no room for an answer: the chain goes back as it is
///   else if (request.refusal != VIRTIO_BLK_S_OK) ...       // answered at once
///   else serve(request.command, request.offset, request.data);
///
/// A pure function: header and ranges are copied out of guest memory once, and the copies are checked; data is not
/// looked at. Buffers may be cut anywhere (VIRTIO_F_VERSION_1: no fixed layout).
namespace mayfly {

enum class BlockCommand : std::uint8_t { Read, Write, Flush, Discard, WriteZeroes, GetId };

/// One piece of a discard or write-zeroes request, in bytes of the drive; it lies within the drive.
struct BlockRange {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  bool unmap = false;  ///< Write zeroes: the space may be given up.
};

/// Most ranges that one request may have (max_discard_seg, max_write_zeroes_seg).
inline constexpr std::size_t kMaximumBlockRanges = 16;
/// Most sectors in one of them: 2 GiB, so that a single call to the host does not take for ever.
inline constexpr std::uint32_t kMaximumRangeSectors = 1U << 22;

/// The drive, as far as requests are judged by it.
struct BlockRules {
  std::uint64_t sectors = 0;
  bool read_only = false;
  bool discard = false;  ///< Whether VIRTIO_BLK_F_DISCARD is offered.
};

/// A chain's buffers as host memory, none of them empty, and room for ranges; all the caller's. The vectors are trimmed
/// in place to what is data.
struct BlockBuffers {
  std::span<iovec> readable;
  std::span<iovec> writable;
  std::span<BlockRange, kMaximumBlockRanges> ranges;
};

struct BlockRequest {
  BlockCommand command = BlockCommand::Read;
  /// VIRTIO_BLK_S_OK: to be served. Else the answer: IOERR for what is wrong, UNSUPP for what is not known.
  std::uint8_t refusal = VIRTIO_BLK_S_OK;
  /// The last byte that the device may write, in guest memory; none: a chain that cannot be answered.
  std::byte* status = nullptr;
  std::uint64_t offset = 0;     ///< Read, Write: bytes from the drive's start; the whole request lies within it.
  std::uint64_t length = 0;     ///< Read, Write, GetId: of `data`, bytes. A multiple of the sector for the first two.
  std::span<iovec> data{};      ///< Read, GetId: to be filled. Write: to be stored.
  std::size_t range_count = 0;  ///< Discard, WriteZeroes: how many of BlockBuffers::ranges were filled.
};

[[nodiscard]] BlockRequest parse_block_request(const BlockBuffers& buffers, const BlockRules& rules) noexcept;

}  // namespace mayfly
