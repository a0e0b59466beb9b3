#include "snapshot/memory_parts.h"

#include "snapshot/checksum.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <deque>

namespace mayfly::memory_parts {
namespace {

/// Writes in flight: enough to keep a disk busy while the next checksum is computed.
constexpr std::size_t kWritesAtOnce = 8;

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span{&value, 1});
}

}  // namespace

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

Status write_table(int file, const std::string& path, std::uint64_t memory_size,
                   std::span<const MemoryStretch> stretches) {
  if (auto written = write_at(file, path, std::as_bytes(stretches), memory_size + kFooterRoom); !written)
    return written;
  // Without stretches the footer's page would end with the footer.
  const std::uint64_t size = memory_size + kFooterRoom + std::as_bytes(stretches).size();
  if (::ftruncate(file, static_cast<off_t>(size)) != 0) return cannot_write(path);
  return {};
}

Status write_footer(int file, const std::string& path, const MemoryFileFooter& footer) {
  return write_at(file, path, bytes_of(footer), footer.memory_size);
}

Status write_end(int file, const std::string& path, const MemoryFileFooter& footer,
                 std::span<const MemoryStretch> stretches) {
  if (auto written = write_table(file, path, footer.memory_size, stretches); !written) return written;
  return write_footer(file, path, footer);
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

// --- Guest memory ----------------------------------------------------------------------------------------------------

/// Writes with several in flight; what fails first is kept.
class PageWriter::Pieces {
 public:
  Pieces(EventLoop& loop, int file) : loop_(loop), file_(file) {
    for (std::size_t i = 0; i < kWritesAtOnce; ++i) pieces_.emplace_back(*this);
  }

  /// Waits until there is room for it. False after a failure.
  [[nodiscard]] bool write(std::span<const std::byte> bytes, std::uint64_t offset) {
    loop_.serve_until([this] { return failure_ != 0 || in_flight_ < kWritesAtOnce; });
    if (failure_ != 0) return false;
    std::ranges::find(pieces_, true, [](const Piece& piece) { return piece.rest.empty(); })->begin(bytes, offset);
    return true;
  }
  /// Waits for all of it; the errno of the first failure, or 0.
  [[nodiscard]] int finish() {
    loop_.serve_until([this] { return in_flight_ == 0; });
    return failure_;
  }

 private:
  struct Piece final : Operation {
    explicit Piece(Pieces& owner_in) noexcept : owner(owner_in) {}
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
    Pieces& owner;
    std::span<const std::byte> rest;
    std::uint64_t at = 0;
  };

  EventLoop& loop_;
  int file_;
  std::deque<Piece> pieces_;  // operations do not move
  std::size_t in_flight_ = 0;
  int failure_ = 0;
};

PageWriter::PageWriter(EventLoop& loop, const OwnedFd& file, const GuestMemory& memory)
    : memory_(memory), pieces_(std::make_unique<Pieces>(loop, file.get())) {}

PageWriter::~PageWriter() { (void)pieces_->finish(); }

std::span<const std::byte> PageWriter::piece_at(std::uint64_t offset, std::uint64_t length) const {
  const auto piece = bytes_at(memory_, offset, std::min(length, kLongestStretch));
  ensure(!piece.empty(), "a page range lies outside guest memory");
  return piece;
}

std::optional<MemoryStretch> PageWriter::write(std::span<const std::byte> piece, std::uint64_t offset) {
  if (!pieces_->write(piece, offset)) return std::nullopt;
  return MemoryStretch{.range = {offset, piece.size()}, .checksum = checksum(piece)};
}

Status PageWriter::finish(const std::string& path) {
  const int failure = pieces_->finish();
  if (failure == 0) return {};
  errno = failure;
  return cannot_write(path);
}

}  // namespace mayfly::memory_parts
