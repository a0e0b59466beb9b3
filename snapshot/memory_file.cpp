#include "snapshot/memory_file.h"

#include "snapshot/checksum.h"
#include "snapshot/file_pair.h"
#include "snapshot/memory_parts.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace mayfly {

using memory_parts::changed;
using memory_parts::checksum_of;
using memory_parts::kMagic;
using memory_parts::kVersion;
using memory_parts::read_at;
using memory_parts::size_of;

Status write_memory_file(const PageWriting& pages, const OwnedFd& file, const std::string& path,
                         const MemoryFileContent& content) {
  std::vector<MemoryStretch> stretches;
  memory_parts::PageWriter writer{pages, file};
  for (const PageRange& range : content.pages) {
    for (std::uint64_t at = range.offset; at < range.end(); at = stretches.back().range.end()) {
      const auto written = writer.write(at, range.end() - at);
      if (!written) return writer.finish(path);
      stretches.push_back(*written);
    }
  }
  if (auto finished = writer.finish(path); !finished) return finished;
  return memory_parts::write_end(
      file.get(), path,
      memory_parts::make_footer(content.kind, content.id, content.base_id, pages.memory.size(), stretches), stretches);
}

Result<MemoryFileFooter> read_footer(int file, const std::string& path, std::uint64_t memory_size) {
  auto size = size_of(file, path);
  if (!size) return propagate(size);
  if (*size < memory_size + kFooterRoom)
    return fail(
        ErrorKind::InvalidArgument,
        "memory file {} has {} bytes, and {} MiB of memory need {} or more: it was not written or copied whole, "
        "or is another machine's",
        path, *size, memory_size / kMiB, memory_size + kFooterRoom);
  MemoryFileFooter footer;
  if (auto read = read_at(file, path, std::as_writable_bytes(std::span{&footer, 1}), memory_size); !read)
    return propagate(read);
  if (footer.magic != kMagic)
    return fail(ErrorKind::InvalidArgument,
                "memory file {} is not that of a Mayfly machine with {} MiB of memory: nothing says so behind them",
                path, memory_size / kMiB);
  if (footer.version != kVersion)
    return fail(ErrorKind::Unsupported, "memory file {} has version {}, and Mayfly {} knows version {}", path,
                footer.version, MAYFLY_VERSION, kVersion);
  const bool has_kind = footer.kind == MemoryFileKind::Full || footer.kind == MemoryFileKind::Diff;
  if (footer.checksum != checksum_of(footer) || footer.memory_size != memory_size || !has_kind ||
      footer.stretch_count > (*size - memory_size - kFooterRoom) / sizeof(MemoryStretch) ||
      footer.stretch_count > memory_size / kGuestPageSize)
    return fail(ErrorKind::InvalidArgument, "memory file {} is damaged: its footer has changed", path);
  return footer;
}

namespace {

/// Of the part behind `memory_size` bytes of RAM.
constexpr std::uint64_t largest_end(std::uint64_t memory_size) {
  return kFooterRoom + memory_size / kGuestPageSize * sizeof(MemoryStretch);
}

}  // namespace

Result<MemoryFileFooter> find_footer(int file, const std::string& path) {
  auto size = size_of(file, path);
  if (!size) return propagate(size);
  std::optional<Error> damaged;
  // RAM is whole MiB, and the table behind it has at most an entry a page: the last MiB that fits, and on down to where
  // the table would be larger than it can be.
  for (std::uint64_t at = *size / kMiB * kMiB; at >= kMiB && *size - at <= largest_end(at); at -= kMiB) {
    std::array<char, 8> magic{};
    if (*size - at < kFooterRoom) continue;
    if (auto read = read_at(file, path, std::as_writable_bytes(std::span{magic}), at); !read) return propagate(read);
    if (magic != kMagic) continue;
    auto footer = read_footer(file, path, at);
    if (footer) return footer;
    if (!damaged) damaged = std::move(footer.error());
  }
  if (damaged) return std::unexpected{std::move(*damaged)};
  return fail(ErrorKind::InvalidArgument, "memory file {} is not a memory file of Mayfly, or was cut short", path);
}

Result<std::vector<MemoryStretch>> read_stretches(int file, const std::string& path, const MemoryFileFooter& footer) {
  std::vector<MemoryStretch> stretches(footer.stretch_count);
  if (auto read = read_at(file, path, std::as_writable_bytes(std::span{stretches}), footer.memory_size + kFooterRoom);
      !read)
    return propagate(read);
  if (checksum(std::as_bytes(std::span{stretches})) != footer.table_checksum)
    return fail(ErrorKind::InvalidArgument, "memory file {} is damaged: its table of data has changed", path);
  std::uint64_t end = 0;
  for (const MemoryStretch& stretch : stretches) {
    const PageRange& range = stretch.range;
    const bool whole_pages = range.offset % kGuestPageSize == 0 && range.length % kGuestPageSize == 0;
    if (!whole_pages || range.offset < end || range.length == 0 || range.length > kLongestStretch ||
        range.offset > footer.memory_size || range.length > footer.memory_size - range.offset)
      return fail(ErrorKind::InvalidArgument, "memory file {} is damaged: its table of data makes no sense", path);
    end = range.end();
  }
  return stretches;
}

Status verify_stretches(int file, const std::string& path, std::span<const MemoryStretch> stretches) {
  std::vector<std::byte> content(kLongestStretch);
  for (const MemoryStretch& stretch : stretches) {
    const auto piece = std::span{content}.first(stretch.range.length);
    if (auto read = read_at(file, path, piece, stretch.range.offset); !read) return read;
    if (checksum(piece) != stretch.checksum) return changed(path, stretch);
  }
  return {};
}

Result<OwnedFd> open_for_reading(const std::string& path) {
  OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (!file) return fail_errno(ErrorKind::System, "memory file {} cannot be opened", path);
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno(ErrorKind::System, "memory file {}", path);
  if (!S_ISREG(status.st_mode))
    return fail(ErrorKind::InvalidArgument, "memory file {} is not a regular file; give a snapshot's memory file",
                path);
  return file;
}

Result<OwnedFd> open_memory_file(const std::string& path, const SnapshotId& id, std::uint64_t memory_size) {
  std::optional<Error> first;
  // The new name is looked at only where NAME is not what is wanted: see file_pair.h.
  for (const std::string& name : {path, new_name(path)}) {
    auto file = open_for_reading(name);
    if (file) {
      auto footer = read_footer(file->get(), name, memory_size);
      if (footer && footer->id == id && footer->kind == MemoryFileKind::Full) return file;
      if (footer && footer->id == id)
        first =
            Error{ErrorKind::InvalidArgument,
                  fmt::format("memory file {} is a diff of snapshot {}; put that one's memory file before it, or merge "
                              "them (mayfly snapshot merge)",
                              name, format_snapshot_id(footer->base_id))};
      else if (footer && !first)
        first = Error{ErrorKind::InvalidArgument,
                      fmt::format("memory file {} belongs to snapshot {}, and the state file to snapshot {}; give the "
                                  "pair that was written together",
                                  name, format_snapshot_id(footer->id), format_snapshot_id(id))};
      else if (!footer && !first)
        first = std::move(footer.error());
    } else if (!first) {
      first = std::move(file.error());
    }
  }
  return std::unexpected{std::move(*first)};
}

}  // namespace mayfly
