#include "snapshot/memory_file.h"

#include "snapshot/checksum.h"
#include "snapshot/file_pair.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <deque>

namespace mayfly {
namespace {

constexpr std::array<char, 8> kMagic = {'M', 'A', 'Y', 'F', 'L', 'Y', 'M', 'E'};
constexpr std::uint32_t kVersion = 1;
/// Writes in flight: enough to keep a disk busy while the next checksum is computed.
constexpr std::size_t kWritesAtOnce = 8;

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span{&value, 1});
}

std::uint64_t checksum_of(const MemoryFileFooter& footer) {
  return checksum(bytes_of(footer).first(offsetof(MemoryFileFooter, checksum)));
}

MemoryFileFooter make_footer(MemoryFileKind kind, const SnapshotId& id, const SnapshotId& base_id,
                             std::uint64_t memory_size, std::span<const MemoryStretch> stretches) {
  MemoryFileFooter footer{.magic = kMagic,
                          .version = kVersion,
                          .kind = kind,
                          .id = id,
                          .base_id = base_id,
                          .memory_size = memory_size,
                          .stretch_count = stretches.size(),
                          .table_checksum = checksum(std::as_bytes(stretches))};
  footer.checksum = checksum_of(footer);
  return footer;
}

/// Writes pieces of guest memory with several in flight; what fails first is kept.
class PieceWriter {
 public:
  PieceWriter(EventLoop& loop, int file) : loop_(loop), file_(file) {
    for (std::size_t i = 0; i < kWritesAtOnce; ++i) pieces_.emplace_back(*this);
  }

  /// Waits until there is room for it. False after a failure.
  [[nodiscard]] bool write(std::span<const std::byte> bytes, std::uint64_t offset) {
    loop_.serve_until([this] { return failure_ != 0 || in_flight_ < kWritesAtOnce; });
    if (failure_ != 0) return false;
    std::ranges::find(pieces_, true, [](const Piece& piece) { return piece.rest.empty(); })->begin(bytes, offset);
    return true;
  }
  [[nodiscard]] bool failed() const noexcept { return failure_ != 0; }
  /// Waits for all of it; the errno of the first failure, or 0.
  [[nodiscard]] int finish() {
    loop_.serve_until([this] { return in_flight_ == 0; });
    return failure_;
  }

 private:
  struct Piece final : Operation {
    explicit Piece(PieceWriter& owner_in) noexcept : owner(owner_in) {}
    void begin(std::span<const std::byte> bytes, std::uint64_t offset) {
      rest = bytes;
      at = offset;
      ++owner.in_flight_;
      owner.loop_.write(owner.file_, rest, at, *this);
    }
    void on_complete(int result, bool /*more*/) noexcept override {
      if (result == -EINTR || result == -EAGAIN) {
        owner.loop_.write(owner.file_, rest, at, *this);
        return;
      }
      if (result <= 0) {
        if (owner.failure_ == 0) owner.failure_ = result == 0 ? ENOSPC : -result;
        rest = {};
      } else {
        rest = rest.subspan(static_cast<std::size_t>(result));
        at += static_cast<std::uint64_t>(result);
      }
      if (!rest.empty())
        owner.loop_.write(owner.file_, rest, at, *this);
      else
        --owner.in_flight_;
    }
    PieceWriter& owner;
    std::span<const std::byte> rest;
    std::uint64_t at = 0;
  };

  EventLoop& loop_;
  int file_;
  std::deque<Piece> pieces_;  // operations do not move
  std::size_t in_flight_ = 0;
  int failure_ = 0;
};

std::unexpected<Error> cannot_write(const std::string& path) {
  return fail_errno(ErrorKind::System, "mem_file_path {}: cannot write", path);
}

Status write_at(int file, const std::string& path, std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return cannot_write(path);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

Status read_at(int file, const std::string& path, std::span<std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t count = ::pread(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(ErrorKind::System, "memory file {} cannot be read", path);
    if (count == 0)
      return fail(ErrorKind::InvalidArgument, "memory file {} ends too early: it was not written or copied whole",
                  path);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

/// The part behind RAM: footer and table.
Status write_end(int file, const std::string& path, const MemoryFileFooter& footer,
                 std::span<const MemoryStretch> stretches) {
  if (auto written = write_at(file, path, std::as_bytes(stretches), footer.memory_size + kFooterRoom); !written)
    return written;
  if (auto written = write_at(file, path, bytes_of(footer), footer.memory_size); !written) return written;
  // Without stretches the footer's page would end with the footer.
  const std::uint64_t size = footer.memory_size + kFooterRoom + std::as_bytes(stretches).size();
  if (::ftruncate(file, static_cast<off_t>(size)) != 0) return cannot_write(path);
  return {};
}

std::unexpected<Error> changed(const std::string& path, const MemoryStretch& stretch) {
  return fail(ErrorKind::InvalidArgument,
              "memory file {} has changed since it was written: {} bytes at offset {:#x} have another checksum", path,
              stretch.range.length, stretch.range.offset);
}

Result<std::uint64_t> size_of(int file, const std::string& path) {
  struct stat status{};
  if (::fstat(file, &status) != 0) return fail_errno(ErrorKind::System, "memory file {}", path);
  return static_cast<std::uint64_t>(status.st_size);
}

}  // namespace

Status write_memory_file(EventLoop& loop, const OwnedFd& file, const std::string& path, const GuestMemory& memory,
                         const MemoryFileContent& content) {
  std::vector<MemoryStretch> stretches;
  PieceWriter writer{loop, file.get()};
  for (const PageRange& range : content.pages) {
    for (std::uint64_t at = range.offset; at < range.end();) {
      const auto piece = bytes_at(memory, at, std::min(range.end() - at, kLongestStretch));
      ensure(!piece.empty(), "a page range lies outside guest memory");
      if (!writer.write(piece, at)) break;
      stretches.push_back({.range = {at, piece.size()}, .checksum = checksum(piece)});
      at += piece.size();
    }
    if (writer.failed()) break;
  }
  if (const int failure = writer.finish(); failure != 0) {
    errno = failure;
    return cannot_write(path);
  }
  return write_end(file.get(), path, make_footer(content.kind, content.id, content.base_id, memory.size(), stretches),
                   stretches);
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
    return fail(ErrorKind::InvalidArgument, "memory file {} is damaged: what says whose it is has changed", path);
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
                  fmt::format("memory file {} is a diff: merge it onto its base first (mayfly snapshot merge)", name)};
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

namespace {

/// A memory file that is read from.
struct Source {
  OwnedFd file;
  std::string path;
  MemoryFileFooter footer;
  std::vector<MemoryStretch> stretches;
  std::vector<std::byte> content{};       // of `loaded`
  const MemoryStretch* loaded = nullptr;  // a stretch is wanted in parts, one after the other

  /// The bytes of a stretch, once they are known to be as they were written; good until the next call.
  [[nodiscard]] Result<std::span<const std::byte>> load(const MemoryStretch& stretch) {
    content.resize(kLongestStretch);
    const auto whole = std::span{content}.first(stretch.range.length);
    if (loaded == &stretch) return whole;
    loaded = nullptr;
    if (auto read = read_at(file.get(), path, whole, stretch.range.offset); !read) return propagate(read);
    if (checksum(whole) != stretch.checksum) return changed(path, stretch);
    loaded = &stretch;
    return whole;
  }

  static Result<Source> open(const std::string& path) {
    auto file = open_for_reading(path);
    if (!file) return propagate(file);
    auto footer = find_footer(file->get(), path);
    if (!footer) return propagate(footer);
    auto stretches = read_stretches(file->get(), path, *footer);
    if (!stretches) return propagate(stretches);
    return Source{.file = std::move(*file), .path = path, .footer = *footer, .stretches = std::move(*stretches)};
  }
};

/// Writes the stretches of the merged file, the diff's before the base's, in order.
class Merger {
 public:
  Merger(Source& base, Source& diff, const NewFile& output) : base_(base), diff_(diff), output_(output) {}

  [[nodiscard]] Status run() {
    std::uint64_t at = 0;
    std::size_t next_base = 0;
    for (const MemoryStretch& stretch : diff_.stretches) {
      if (auto copied = copy_base(at, stretch.range.offset, next_base); !copied) return copied;
      if (auto copied = copy(diff_, stretch, stretch.range); !copied) return copied;
      at = stretch.range.end();
    }
    return copy_base(at, base_.footer.memory_size, next_base);
  }
  [[nodiscard]] std::span<const MemoryStretch> stretches() const noexcept { return written_; }

 private:
  /// What the base has in [begin, end).
  [[nodiscard]] Status copy_base(std::uint64_t begin, std::uint64_t end, std::size_t& next) {
    for (; next < base_.stretches.size(); ++next) {
      const PageRange& whole = base_.stretches[next].range;
      const std::uint64_t from = std::max(whole.offset, begin);
      const std::uint64_t to = std::min(whole.end(), end);
      if (from < to)
        if (auto copied = copy(base_, base_.stretches[next], {from, to - from}); !copied) return copied;
      if (whole.end() > end) break;  // the rest of it may be wanted behind the next stretch of the diff
    }
    return {};
  }

  /// `part` of a stretch.
  [[nodiscard]] Status copy(Source& source, const MemoryStretch& stretch, const PageRange& part) {
    auto whole = source.load(stretch);
    if (!whole) return propagate(whole);
    const auto piece = whole->subspan(part.offset - stretch.range.offset, part.length);
    if (auto done = write_at(output_.fd().get(), output_.path(), piece, part.offset); !done) return done;
    written_.push_back({.range = part, .checksum = checksum(piece)});
    return {};
  }

  Source& base_;
  Source& diff_;
  const NewFile& output_;
  std::vector<MemoryStretch> written_;
};

}  // namespace

Status merge_memory_files(const std::string& base_path, const std::string& diff_path, const std::string& output) {
  auto base = Source::open(base_path);
  if (!base) return propagate(base);
  auto diff = Source::open(diff_path);
  if (!diff) return propagate(diff);
  if (diff->footer.kind != MemoryFileKind::Diff)
    return fail(ErrorKind::InvalidArgument, "memory file {} is no diff: it needs no merging", diff_path);
  if (diff->footer.base_id != base->footer.id)
    return fail(
        ErrorKind::InvalidArgument,
        "memory file {} is a diff of snapshot {}, and {} is of snapshot {}; merge the diffs of a chain in their "
        "order",
        diff_path, format_snapshot_id(diff->footer.base_id), base_path, format_snapshot_id(base->footer.id));
  if (diff->footer.memory_size != base->footer.memory_size)
    return fail(ErrorKind::InvalidArgument, "memory files {} and {} are of machines with {} and {} MiB of memory",
                base_path, diff_path, base->footer.memory_size / kMiB, diff->footer.memory_size / kMiB);
  auto file = NewFile::create(output, "output");
  if (!file) return propagate(file);
  Merger merger{*base, *diff, *file};
  if (auto merged = merger.run(); !merged) return merged;
  const MemoryFileFooter footer = make_footer(base->footer.kind, diff->footer.id, base->footer.base_id,
                                              base->footer.memory_size, merger.stretches());
  if (auto written = write_end(file->fd().get(), output, footer, merger.stretches()); !written) return written;
  if (auto synced = file->sync(); !synced) return synced;
  return file->publish();
}

}  // namespace mayfly
