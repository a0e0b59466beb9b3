#pragma once

#include <cstdint>
#include <optional>

/// Which part of a file that is appended to must be freed, so that it never takes more than a limit, and keeps its newest bytes.
///
///   NewestBytes kept{1 << 20};
///   if (const auto range = kept.to_free(end, piece.size())) {
///     fallocate(fd, kFreeMode, range->offset, range->length);
///     kept.freed(*range);
///   }
///   write(fd, piece);
///
/// Freed bytes become a hole, so offsets of readers stay right, and no other file is opened or renamed. The file's size still
/// counts all that was ever written; what it takes does not.
namespace mayfly {

/// The least limit: of a console with its buffer (64 KiB) twice.
inline constexpr std::uint64_t kLeastBound = std::uint64_t{128} << 10;
inline constexpr int kFreeMode = 3;  // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE

class NewestBytes {
 public:
  struct Range {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
  };

  /// `most`: kLeastBound or more. `hole`: where the file's first data are, as it may have been trimmed before.
  explicit NewestBytes(std::uint64_t most, std::uint64_t hole = 0) noexcept
      : most_(most), freed_(hole / kBlock * kBlock) {}

  [[nodiscard]] std::uint64_t most() const noexcept { return most_; }
  [[nodiscard]] bool has_room(std::uint64_t end, std::uint64_t more) const noexcept {
    return end < freed_ || end - freed_ + more <= most_;
  }
  /// Of a file that ends at `end`, before `more` bytes are appended; none: there is room. It then keeps nearly half of the limit,
  /// so a hole is made once for many writes.
  [[nodiscard]] std::optional<Range> to_free(std::uint64_t end, std::uint64_t more) noexcept {
    if (end < freed_) freed_ = 0;  // somebody has truncated it
    if (has_room(end, more)) return std::nullopt;
    const std::uint64_t kept = (most_ / 2) - kBlock;
    const std::uint64_t until = end > kept ? (end - kept) / kBlock * kBlock : 0;
    if (until <= freed_) return std::nullopt;
    return Range{.offset = freed_, .length = until - freed_};
  }
  void freed(Range range) noexcept { freed_ = range.offset + range.length; }

 private:
  static constexpr std::uint64_t kBlock = 4096;  // only whole blocks are freed

  std::uint64_t most_;
  std::uint64_t freed_ = 0;
};

}  // namespace mayfly
