#include "snapshot/memory_parts.h"

#include "snapshot/checksum.h"
#include "snapshot/copy_bound.h"
#include "snapshot/held_memory.h"
#include "vmm/base/files.h"
#include "vmm/base/mutex.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <deque>
#include <memory>

namespace mayfly::memory_parts {
namespace {

/// Writes in flight: enough to keep a disk busy while the next checksum is computed.
constexpr std::size_t kWritesAtOnce = 8;
/// How often it is looked at what a guest copies.
constexpr std::chrono::milliseconds kLookEvery{1};
static_assert(kWritesAtOnce <= HeldMemory::kSlots && kWrittenAtOnce <= HeldMemory::kSlotBytes);

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span{&value, 1});
}

}  // namespace

std::uint64_t checksum_of(const MemoryFileFooter& footer) {
  return checksum(bytes_of(footer).first(offsetof(MemoryFileFooter, checksum)));
}

std::unexpected<Error> cannot_write(const std::string& path) {
  return fail_errno(ErrorKind::System, "mem_file_path {}: cannot write", path);
}

Status write_at(int file, const std::string& path, std::span<const std::byte> bytes, std::uint64_t offset) {
  if (!write_all_at(file, bytes, offset)) return cannot_write(path);
  return {};
}

Status read_at(int file, const std::string& path, std::span<std::byte> bytes, std::uint64_t offset) {
  if (read_all_at(file, bytes, offset) == bytes.size()) return {};
  if (errno != 0) return fail_errno(ErrorKind::System, "memory file {} cannot be read", path);
  return fail(ErrorKind::InvalidArgument, "memory file {} ends too early: it was not written or copied whole", path);
}

std::unexpected<Error> stopped(const std::string& path) {
  return fail(ErrorKind::State, "memory file {}: its writing was stopped", path);
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

namespace {

/// Writes guest memory piece by piece, and sums it up. The pieces are the ring's; who writes waits for room among them.
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

/// Writes with several in flight: begun here, submitted and completed on the loop's thread. What fails first is kept.
class PageWriter::Pieces : public std::enable_shared_from_this<Pieces> {
 public:
  Pieces(const PageWriting& pages, OwnedFd file)
      : loop_(pages.loop),
        file_(std::move(file)),
        stop_(pages.stop),
        patience_(pages.patience),
        held_(pages.held),
        progress_(pages.progress),
        bound_(pages.bound),
        pieces_(kWritesAtOnce) {}

  /// Waits until there is room for it, and writes it, or what was held of it. What is written; empty after a failure.
  [[nodiscard]] std::span<const std::byte> write(std::span<const std::byte> bytes, std::uint64_t offset) {
    MutexLock lock{mutex_};
    next_ = offset;
    if (bound_) look();
    while (failure_ == 0 && in_flight_ == kWritesAtOnce) await_progress();
    if (failure_ == 0 && stop_.stop_requested()) failure_ = ECANCELED;
    if (failure_ != 0) return {};
    const auto free = std::ranges::find(pieces_, nullptr, &Piece::owner);
    Piece& piece = *free;
    if (held_) {
      const auto slot = static_cast<std::size_t>(free - pieces_.begin());
      lock.unlock();  // the piece is ours while it is free
      const int failure = held_->copy(slot, offset, bytes.size(), stop_, patience_);
      lock.lock();
      if (failure_ == 0) failure_ = failure;
      if (failure_ != 0) return {};
      bytes = held_->slot(slot).first(bytes.size());
    }
    piece.owner = shared_from_this();
    piece.rest = bytes;
    piece.at = offset;
    ++in_flight_;
    lock.unlock();
    loop_.post([&piece] { piece.submit(); });
    return bytes;
  }
  /// Waits for all of it; the errno of the first failure, or 0. Then nothing that is held is needed any more.
  [[nodiscard]] int finish() {
    const int failure = await_all();
    if (held_) held_->let_go();
    if (bound_) bound_->end();
    return failure;
  }

 private:
  [[nodiscard]] int await_all() {
    const MutexLock lock{mutex_};
    while (in_flight_ > 0 && failure_ != ETIMEDOUT) await_progress();
    return failure_;
  }

  struct Piece final : Operation {
    // The machine may go on meanwhile, so the loop must not copy it: a worker of the kernel does.
    void submit() {
      if (owner->held_) return owner->loop_.write_by_worker(owner->file_.get(), rest, at, *this);
      owner->loop_.write(owner->file_.get(), rest, at, *this);
    }
    void on_complete(int result, bool /*more*/) noexcept override {
      if (result == -EINTR || result == -EAGAIN) return submit();
      if (result > 0) {
        if (owner->progress_ != nullptr) owner->progress_->done.fetch_add(static_cast<std::size_t>(result));
        rest = rest.subspan(static_cast<std::size_t>(result));
        at += static_cast<std::uint64_t>(result);
        if (!rest.empty()) return submit();
      }
      owner->end(*this, result > 0 ? 0 : result == 0 ? ENOSPC : -result);
    }
    std::shared_ptr<Pieces> owner;  // none: free
    std::span<const std::byte> rest;
    std::uint64_t at = 0;
  };

  /// Until a piece has ended; or none has for so long that none will.
  void await_progress() REQUIRES(mutex_) {
    const auto deadline = std::chrono::steady_clock::now() + patience_;
    const std::uint64_t before = ended_;
    while (ended_ == before) {
      const auto now = std::chrono::steady_clock::now();
      if (now >= deadline) {
        failure_ = ETIMEDOUT;
        return;
      }
      (void)changed_.wait_until(mutex_, bound_ ? std::min(deadline, now + kLookEvery) : deadline);
      if (bound_ && ended_ == before) look();
    }
  }

  /// Whether what the guest copies meanwhile has become too much.
  void look() REQUIRES(mutex_) {
    mutex_.unlock();  // a count takes milliseconds, and the loop does not wait
    const int failure = bound_->look(next_);
    mutex_.lock();
    if (failure_ == 0) failure_ = failure;
  }

  void end(Piece& piece, int failure) {
    const std::shared_ptr<Pieces> kept = piece.owner;  // this, until the lock is gone
    const MutexLock lock{mutex_};
    piece.owner = nullptr;
    if (failure_ == 0) failure_ = failure;
    --in_flight_;
    ++ended_;
    changed_.notify_one();
  }

  EventLoop& loop_;
  const OwnedFd file_;  // its own: a piece may outlive the writer
  std::stop_token stop_;
  std::chrono::milliseconds patience_;
  const std::shared_ptr<HeldMemory> held_;           // what is in flight lies in its slots
  const std::shared_ptr<WritingProgress> progress_;  // of a piece that comes late, too
  // The writer's alone.
  const std::shared_ptr<CopyBound> bound_;
  std::uint64_t next_ = 0;  // all before it is written, or on its way
  Mutex mutex_;
  ConditionVariable changed_;
  std::deque<Piece> pieces_;  // operations do not move; each is its writer's while it is free, and the loop's while not
  std::size_t in_flight_ GUARDED_BY(mutex_) = 0;
  std::uint64_t ended_ GUARDED_BY(mutex_) = 0;
  int failure_ GUARDED_BY(mutex_) = 0;
};

PageWriter::PageWriter(const PageWriting& pages, const OwnedFd& file)
    : memory_(pages.memory),
      pieces_(std::make_shared<Pieces>(pages, OwnedFd{::fcntl(file.get(), F_DUPFD_CLOEXEC, 0)})) {}

PageWriter::~PageWriter() { (void)pieces_->finish(); }

std::optional<MemoryStretch> PageWriter::write(std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t end = offset + std::min(length, longest_stretch(memory_.size()));
  MemoryStretch stretch{.range = {offset, 0}};
  sum_.begin();
  for (std::uint64_t at = offset; at < end;) {
    const auto piece = bytes_at(memory_, at, std::min(end - at, kWrittenAtOnce));
    ensure(!piece.empty(), "a page range lies outside guest memory");
    const auto written = pieces_->write(piece, at);
    if (written.empty()) return std::nullopt;
    sum_.add(written);
    at += written.size();
    stretch.range.length += written.size();
  }
  stretch.checksum = sum_.sum();
  return stretch;
}

Status PageWriter::finish(const std::string& path) {
  switch (const int failure = pieces_->finish(); failure) {
    case 0:
      return {};
    case ECANCELED:
      return stopped(path);
    case ECHILD:
      return fail(ErrorKind::System, "memory file {}: the process that held guest memory has ended; try again", path);
    case ETIMEDOUT:
      return fail(ErrorKind::System, "memory file {}: its disk has not answered for a minute", path);
    default:
      errno = failure;
      return cannot_write(path);
  }
}

}  // namespace

Result<std::vector<MemoryStretch>> write_pages(const PageWriting& pages, const OwnedFd& file, const std::string& path,
                                               const PageRanges& ranges) {
  PageWriter writer{pages, file};
  std::vector<MemoryStretch> stretches;
  for (const PageRange& range : pages_in_file(ranges, pages.memory.size()))
    for (std::uint64_t at = range.offset; at < range.end(); at = stretches.back().range.end()) {
      const auto written = writer.write(at, range.end() - at);
      if (!written) {
        auto failed = writer.finish(path);
        return propagate(failed);
      }
      stretches.push_back(*written);
    }
  if (auto finished = writer.finish(path); !finished) return propagate(finished);
  return stretches;
}

}  // namespace mayfly::memory_parts
