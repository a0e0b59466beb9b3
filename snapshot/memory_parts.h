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
/// is read again. Those of a diff are not joined, since its holes are not zeros. Error: also a stop.
[[nodiscard]] Result<std::vector<MemoryStretch>> fitted_table(int file, const std::string& path, MemoryFileKind kind,
                                                              std::uint64_t memory_size,
                                                              std::vector<MemoryStretch> stretches,
                                                              const std::stop_token& stop);

/// The error of a failed write, by errno.
[[nodiscard]] std::unexpected<Error> cannot_write(const std::string& path);
/// The error of a file that is not wanted any more.
[[nodiscard]] std::unexpected<Error> stopped(const std::string& path);
/// The error of a stretch whose checksum is another.
[[nodiscard]] std::unexpected<Error> changed(const std::string& path, const MemoryStretch& stretch);

/// Writes guest memory at its offsets, as pages_in_file() has `ranges`, and sums it up: the stretches of the file's table.
/// When it returns, held memory is let go, and nothing reads guest memory any more. Errors: of the first write that
/// failed; a stop; a disk that does not answer.
[[nodiscard]] Result<std::vector<MemoryStretch>> write_pages(const PageWriting& pages, const OwnedFd& file,
                                                             const std::string& path, const PageRanges& ranges);

}  // namespace mayfly::memory_parts
