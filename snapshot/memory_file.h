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

/// The memory file: a guest's RAM byte for byte, sparse, and behind it a table of what is data, and a footer with its
/// id.
///
///   0                  RAM, as large as the machine's memory; holes where nothing was touched (or, in a diff, changed)
///   memory_size        MemoryFileFooter, 4096 bytes
///   then               the stretches of data, each with its checksum
///
/// A process that maps or serves only the first part, as the dialect's page servers do, never sees the rest. The
/// footer's `id` is the state file's: a pair that does not belong together is refused.
namespace mayfly {

class HeldMemory;
class NewFile;

enum class MemoryFileKind : std::uint32_t {
  Full = 1,  ///< Everything; holes are zeros.
  Diff = 2,  ///< What changed since the snapshot `base_id`; holes are as they were.
};

/// As stored: little-endian, at offset memory_size.
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

/// A stretch of data and its checksum: at most kLongestStretch bytes.
struct MemoryStretch {
  PageRange range{};
  std::uint64_t checksum = 0;
};
static_assert(sizeof(MemoryStretch) == 24);
inline constexpr std::uint64_t kLongestStretch = 1 << 20;
/// Room for the footer: the table begins on a page.
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
};

/// Writes an empty file. On an error (a full disk, one that does not answer, a stop) the file is the caller's to
/// remove.
[[nodiscard]] Status write_memory_file(const PageWriting& pages, const OwnedFd& file, const std::string& path,
                                       const MemoryFileContent& content);

/// Reads the footer of an open file whose RAM part is `memory_size` bytes. Errors: no memory file, of another size,
/// damaged.
[[nodiscard]] Result<MemoryFileFooter> read_footer(int file, const std::string& path, std::uint64_t memory_size);
/// The same where the size is to be found out: by the file's own.
[[nodiscard]] Result<MemoryFileFooter> find_footer(int file, const std::string& path);
/// The table behind the footer. Errors: damaged, cut short.
[[nodiscard]] Result<std::vector<MemoryStretch>> read_stretches(int file, const std::string& path,
                                                                const MemoryFileFooter& footer);
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
/// checksum. Errors: as write_memory_file(); the base is damaged.
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
