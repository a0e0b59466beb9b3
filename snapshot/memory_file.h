#pragma once

#include "snapshot/pages.h"
#include "snapshot/snapshot.h"
#include "vmm/base/owned_fd.h"
#include "vmm/io/event_loop.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

/// The memory file: a guest's RAM byte for byte, sparse, and exactly as large as the RAM. A hole is memory that was not
/// touched; in a diff, memory that has not changed.
///
/// Page servers and tools of the dialect map, serve and merge such a file by its size alone. So the label, which says
/// whose memory it is, lies within the RAM: where a PC has ROM, which all memory maps call reserved (vmm/boot/layout.h).
///
///   0xC0000            MemoryFileFooter of a whole memory
///   0xC1000, 0xC2000   MemoryFileFooter of a diff: at the first where the last bit of its id is 0, else at the second
///   0xC3000 ...        the stretches of data, each with its checksum (16 bytes each)
///   0xDF000            the end of the label
///
/// The footer's `id` is the state file's: a pair that does not belong together is refused. The last bit of a diff's id
/// differs from its base's. If a tool copies a diff's data (SEEK_DATA) onto its base, the file has both footers then, and
/// read_footer() takes it for the diff's memory; a footer whose base is missing shows that a diff was left out. A table
/// that does not fit into the label is written as releases before version 2 did: footer and table (24 bytes a stretch)
/// behind RAM.
namespace mayfly {

class CopyBound;
class HeldMemory;
class NewFile;

enum class MemoryFileKind : std::uint32_t {
  Full = 1,  ///< Everything; holes are zeros.
  Diff = 2,  ///< What changed since the snapshot `base_id`; holes are as they were.
};

/// As stored: little-endian.
struct MemoryFileFooter {
  std::array<char, 8> magic{};
  std::uint32_t version = 0;
  MemoryFileKind kind = MemoryFileKind::Full;
  SnapshotId id{};
  SnapshotId base_id{};  ///< Zeros where there is none.
  std::uint64_t memory_size = 0;
  std::uint64_t stretch_count = 0;
  std::uint64_t table_checksum = 0;
  std::uint64_t checksum = 0;  ///< Of all before it.
};
static_assert(sizeof(MemoryFileFooter) == 80);

/// MemoryFileFooter::version.
inline constexpr std::uint32_t kVersionBehindRam = 1;
inline constexpr std::uint32_t kVersionInRam = 2;
/// In no file: read_footer() gives it to a base onto which diffs were copied.
inline constexpr std::uint32_t kVersionPatched = 0xFFFF'FFFF;

/// The part of RAM that the label replaces: its content is not saved.
inline constexpr PageRange kLabel{0xC'0000, 0x1'F000};

/// A stretch of data and its checksum: at most longest_stretch() bytes.
struct MemoryStretch {
  PageRange range{};
  std::uint64_t checksum = 0;
};
static_assert(sizeof(MemoryStretch) == 24);
/// Bytes that are written at once.
inline constexpr std::uint64_t kWrittenAtOnce = 1 << 20;
/// It grows with the memory, so that the table of a memory without holes fits into the label.
[[nodiscard]] std::uint64_t longest_stretch(std::uint64_t memory_size) noexcept;
/// Room for a footer behind RAM: the table begins on a page.
inline constexpr std::uint64_t kFooterRoom = 4096;

/// What write_memory_file() is to write.
struct MemoryFileContent {
  MemoryFileKind kind = MemoryFileKind::Full;
  SnapshotId id{};
  SnapshotId base_id{};
  PageRanges pages{};
};

/// How far a memory file has come, for whoever asks meanwhile. Bytes of guest memory.
struct WritingProgress {
  std::atomic<std::uint64_t> done{0};
  std::atomic<std::uint64_t> total{0};  ///< 0: not known yet.
};

/// How pages get into a file: through a loop's ring, in large pieces, many in flight, while the caller sums them up.
struct PageWriting {
  EventLoop& loop;            ///< Which runs, on another thread than the caller's.
  const GuestMemory& memory;  ///< To which nobody writes meanwhile, unless it is held.
  std::stop_token stop{};     ///< Ends the writing with an error.
  /// How long no piece may come to its end.
  std::chrono::milliseconds patience = std::chrono::seconds{60};
  std::shared_ptr<HeldMemory> held{};  ///< What the memory was at one moment is written; absent: what it is.
  std::shared_ptr<WritingProgress> progress{};
  std::shared_ptr<CopyBound> bound{};  ///< Looked at meanwhile, for memory that is held; absent: none.
};

/// The pages that are written when `pages` are to be saved: without the label's, and joined over small gaps where the
/// label has no room for so many stretches.
[[nodiscard]] PageRanges pages_in_file(const PageRanges& pages, std::uint64_t memory_size);

/// Writes an empty file. On an error (a full disk, one that does not answer, a stop) the file is the caller's to
/// remove.
[[nodiscard]] Status write_memory_file(const PageWriting& pages, const OwnedFd& file, const std::string& path,
                                       const MemoryFileContent& content);

/// Reads the footer of an open file whose RAM part is `memory_size` bytes. For a base onto which diffs were copied it has
/// the last diff's id and the base's kind. Errors: no memory file, of another size, damaged; a diff was left out.
[[nodiscard]] Result<MemoryFileFooter> read_footer(int file, const std::string& path, std::uint64_t memory_size);
/// The same where the size is to be found out: by the file's own.
[[nodiscard]] Result<MemoryFileFooter> find_footer(int file, const std::string& path);
/// Whether the file has a footer, valid or damaged.
[[nodiscard]] bool has_footer_magic(int file, std::uint64_t memory_size);
/// The table. A base onto which diffs were copied has none: it is made from the file's data, all of which is read.
/// Errors: damaged, cut short; a stop.
[[nodiscard]] Result<std::vector<MemoryStretch>> read_stretches(int file, const std::string& path,
                                                                const MemoryFileFooter& footer,
                                                                const std::stop_token& stop = {});
/// Compares every stretch with its checksum. Errors: the first that differs, by its place.
[[nodiscard]] Status verify_stretches(int file, const std::string& path, std::span<const MemoryStretch> stretches);

/// Opens a file to read it as a memory file, whatever is in it. Errors: not there, a directory, a FIFO...
[[nodiscard]] Result<OwnedFd> open_for_reading(const std::string& path);

/// Opens the memory of `id` for a restore: `path`, or, where a machine was killed between naming the state and the
/// memory (see file_pair.h), the new file beside it. Errors: not there, another snapshot's, a diff, another size.
[[nodiscard]] Result<OwnedFd> open_memory_file(const std::string& path, const SnapshotId& id,
                                               std::uint64_t memory_size);

/// The file at `path` where it is the memory of `base`: a diff of `base` that is to be written there is merged with it
/// (write_merged_memory_file()), since without it the diff would be worth nothing. nullopt where nothing is there, or
/// what has nothing to do with the diff. `may_be_diff`: whether that memory can be a diff itself, as it is of a machine
/// that took it or was loaded from a chain; one that was loaded from one file has a whole base, and a diff of the same id
/// is what that was merged from. Errors, each of which leaves all as it is: a memory file that is damaged, or a file that
/// `memory` was made of and that is none any more; one that cannot be read.
[[nodiscard]] Result<std::optional<OwnedFd>> open_diff_base(const std::string& path, const SnapshotId& base,
                                                            const GuestMemory& memory, bool may_be_diff);

/// Whether `memory` was made of the file at `path`: mapped or read.
[[nodiscard]] bool is_mapped_from(const GuestMemory& memory, const std::string& path);

/// Has `to`, which is empty, share all content of `from`. False, and `to` is empty as before, where the file
/// system cannot.
using CloneFile = bool (*)(int to, int from) noexcept;
[[nodiscard]] bool clone_file(int to, int from) noexcept;

/// Writes an empty file: `base` with the pages of `content` in place of its own. The file
/// belongs to content.id, and is full or a diff of another snapshot as `base` is. `base` is only read. Where the file
/// system shares blocks between files (FICLONE), the changed pages alone are written and the stretches of the base that
/// they lie in are read; elsewhere the base's data is read and written, too. What is read is compared with its
/// checksum. Guest memory is written first: it is held no longer than that takes. Errors: as write_memory_file(), of which
/// a stop is heard within a stretch; the base is damaged.
[[nodiscard]] Status write_merged_memory_file(const PageWriting& pages, const NewFile& file,
                                              const MemoryFileContent& content, OwnedFd base,
                                              CloneFile clone = &clone_file);

/// Puts diffs onto `base`, each onto what the ones before it made, and writes the whole to `output`, which may be any of
/// them. `output` then belongs to the state file of the last diff, and is a diff itself where `base` is one. Each byte is
/// written once. Errors: no such files, damaged, a diff of another snapshot than the file before it.
[[nodiscard]] Status merge_memory_files(const std::string& base, std::span<const std::string> diffs,
                                        const std::string& output);
[[nodiscard]] Status merge_memory_files(const std::string& base, const std::string& diff, const std::string& output);

}  // namespace mayfly
