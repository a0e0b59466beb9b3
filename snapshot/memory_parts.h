#pragma once

#include "snapshot/checksum.h"
#include "snapshot/memory_file.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

/// What writers and readers of memory files share; for snapshot/memory_*.cpp alone.
namespace mayfly::memory_parts {

inline constexpr std::array<char, 8> kMagic = {'M', 'A', 'Y', 'F', 'L', 'Y', 'M', 'E'};

[[nodiscard]] MemoryFileFooter make_footer(MemoryFileKind kind, const SnapshotId& id, const SnapshotId& base_id,
                                           std::uint64_t memory_size, std::span<const MemoryStretch> stretches);
[[nodiscard]] std::uint64_t checksum_of(const MemoryFileFooter& footer);

[[nodiscard]] Result<std::uint64_t> size_of(int file, const std::string& path);
/// All of `bytes`. Errors: a full disk; the end of the file.
[[nodiscard]] Status write_at(int file, const std::string& path, std::span<const std::byte> bytes,
                              std::uint64_t offset);
[[nodiscard]] Status read_at(int file, const std::string& path, std::span<std::byte> bytes, std::uint64_t offset);
/// Writes the table, in the label or behind RAM, and sets the file's size. Without a footer it is no memory file yet.
[[nodiscard]] Status write_table(int file, const std::string& path, std::uint64_t memory_size,
                                 std::span<const MemoryStretch> stretches);
[[nodiscard]] Status write_footer(int file, const std::string& path, const MemoryFileFooter& footer);
/// Both.
[[nodiscard]] Status write_end(int file, const std::string& path, const MemoryFileFooter& footer,
                               std::span<const MemoryStretch> stretches);

/// Removes the footers, and all that is behind RAM, from a copy of a memory file: it is no memory file any more.
[[nodiscard]] Status erase_footers(int file, const std::string& path, std::uint64_t memory_size);
/// The stretches of a file whose data are written, joined over holes if they are too many for the label; what is joined
/// is read again. Those of a diff are not joined, since its holes are not zeros.
[[nodiscard]] Result<std::vector<MemoryStretch>> fitted_table(int file, const std::string& path, MemoryFileKind kind,
                                                              std::uint64_t memory_size,
                                                              std::vector<MemoryStretch> stretches);

/// The error of a failed write, by errno.
[[nodiscard]] std::unexpected<Error> cannot_write(const std::string& path);
/// The error of a stretch whose checksum is another.
[[nodiscard]] std::unexpected<Error> changed(const std::string& path, const MemoryStretch& stretch);

/// Writes guest memory piece by piece, and sums it up: its stretches are the table's. The pieces are the ring's; who
/// writes waits for room among them.
class PageWriter {
 public:
  PageWriter(const PageWriting& pages, const OwnedFd& file);
  PageWriter(const PageWriter&) = delete;
  PageWriter& operator=(const PageWriter&) = delete;
  ~PageWriter();

  /// Writes guest memory at `offset`, where the file has it, too: as much as one stretch holds, at most `length`. It is
  /// read until finish() returns. The stretch that the table is to have; nullopt after a failed write, a stop, or where no
  /// piece has ended for too long.
  [[nodiscard]] std::optional<MemoryStretch> write(std::uint64_t offset, std::uint64_t length);
  /// Waits for all writes. Error: the first one's that failed; the stop; a disk that does not answer.
  [[nodiscard]] Status finish(const std::string& path);

 private:
  class Pieces;
  const GuestMemory& memory_;
  RunningChecksum sum_;
  std::shared_ptr<Pieces> pieces_;  // theirs as well, while any is in flight
};

}  // namespace mayfly::memory_parts
