#pragma once

#include "snapshot/pages.h"
#include "snapshot/snapshot.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

/// The working-set file: which pages of a snapshot's memory a restored guest needs first.
///
///   header     "MAYFLYWS", version, the snapshot's id, the size of its memory, numbers of ranges, checksums
///   ranges     offset and length in the memory file, in the order in which the guest came to them
///   written    the same of those pages of them that it changed, ascending; version 1 does not tell, nor does a recording of
///              more than kMostCopiedAhead
///
/// It holds no content: the pages are the memory file's, so clones share them, and nothing can be out of step.
namespace mayfly {

/// Bytes. A replay copies the changed pages ahead: each clone has so much more memory of its own, and waits for it.
inline constexpr std::uint64_t kMostCopiedAhead = 16 * kMiB;

struct WorkingSet {
  SnapshotId snapshot{};
  std::uint64_t memory_size = 0;    ///< Bytes.
  std::vector<PageRange> ranges{};  ///< Whole pages, each once; the first touched first.
  PageRanges written{};             ///< Those pages of them that the guest changed.
  friend bool operator==(const WorkingSet&, const WorkingSet&) = default;
};

/// The pages that are at `offsets` of the memory file, in the order of their first touch, joined to ranges: one is
/// where its first page is.
[[nodiscard]] std::vector<PageRange> ranges_in_order(std::span<const std::uint64_t> offsets);

/// The pages at `offsets` whose content differs from the memory's files (GuestMemory::file_ranges()). All must be present. None
/// if that is more than kMostCopiedAhead, if there are more than 65,536 offsets, or once `stop` is requested. Reads the files. Any
/// thread. A page that cannot be read is not among them.
[[nodiscard]] PageRanges changed_pages(const GuestMemory& memory, std::span<const std::uint64_t> offsets,
                                       const std::stop_token& stop);

/// Of more than four million ranges, the first ones, and no changed pages.
[[nodiscard]] std::vector<std::byte> encode_working_set(const WorkingSet& set);

/// Writes it to a new file, which is on stable storage then. Errors, with the field working_set.path: the file's.
[[nodiscard]] Status write_working_set(const std::string& path, const WorkingSet& set);

/// Errors: not a working set, of a newer version, cut short, changed since it was written, ranges that overlap or are
/// not in the memory, changed pages that are not among them or too many.
[[nodiscard]] Result<WorkingSet> decode_working_set(std::span<const std::byte> bytes);

/// Reads a file that is for `snapshot`, whose memory has `memory_size` bytes. Errors, with the path: those of the file,
/// of decode_working_set(), and that it is another snapshot's.
[[nodiscard]] Result<WorkingSet> read_working_set(const std::string& path, const SnapshotId& snapshot,
                                                  std::uint64_t memory_size);

}  // namespace mayfly
