#include "snapshot/working_set_replay.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <optional>

namespace mayfly {
namespace {

/// Ranges handed to the ring at once. All of them go the way of the ring's threads.
constexpr std::size_t kBatch = 64;
/// A longer range is handed over in pieces, on which several of them work.
constexpr std::uint64_t kLongestPiece = 4 * kMiB;
/// A pause waits for one, and other threads that map memory do.
constexpr std::uint64_t kLongestCopy = kMiB / 4;

/// So many ranges, evenly spread, stand for all.
constexpr std::size_t kSamples = 32;

/// mincore(2): reads nothing in. For a process that may only read the file it says that all is there.
bool seems_cached(std::span<std::byte> page) {
  unsigned char resident = 0;
  return ::mincore(page.data(), page.size(), &resident) != 0 || (resident & 1) != 0;
}

/// A file in memory has no disk to ask, and no read without waiting.
bool is_on_tmpfs(int file) {
  struct statfs system{};
  return ::fstatfs(file, &system) == 0 && system.f_type == TMPFS_MAGIC;
}

/// Unlike mincore(2) this has the kernel read a missing page, and a fast disk answers before the next look.
bool is_cached(int file, std::uint64_t offset) {
  std::byte byte{};
  const iovec buffer{.iov_base = &byte, .iov_len = 1};
  const ssize_t count = ::preadv2(file, &buffer, 1, static_cast<off_t>(offset), RWF_NOWAIT);
  return count == 1 || (count < 0 && errno == EOPNOTSUPP && is_on_tmpfs(file));
}

/// As long as it lives, a read of the file reads nothing ahead.
class ReadsAlone {
 public:
  explicit ReadsAlone(int file) noexcept : file_(file) { (void)::posix_fadvise(file_, 0, 0, POSIX_FADV_RANDOM); }
  ReadsAlone(const ReadsAlone&) = delete;
  ReadsAlone& operator=(const ReadsAlone&) = delete;
  ~ReadsAlone() { (void)::posix_fadvise(file_, 0, 0, POSIX_FADV_NORMAL); }
  [[nodiscard]] int file() const noexcept { return file_; }

 private:
  int file_;
};

}  // namespace

WorkingSetReplay::WorkingSetReplay(EventLoop& loop, const GuestMemory& memory, const WorkingSet& set)
    : loop_(loop), memory_(memory), ranges_(cut(set.ranges, kLongestPiece)), is_cached_(is_in_page_cache()) {
  if (!is_cached_) return;
  ranges_ = std::vector<PageRange>{};
  written_ = cut(set.written, kLongestCopy);
}

std::vector<PageRange> WorkingSetReplay::cut(std::span<const PageRange> ranges, std::uint64_t longest) const {
  std::vector<PageRange> pieces;
  pieces.reserve(ranges.size());
  for (PageRange range : ranges)
    while (range.length != 0) {
      const std::uint64_t here = bytes_at(memory_, range.offset, std::min(range.length, longest)).size();
      pieces.push_back({range.offset, here});
      range = {range.offset + here, range.length - here};
    }
  return pieces;
}

void WorkingSetReplay::copy_ahead(const std::function<bool()>& enough) const {
  for (const PageRange& range : written_) {
    if (enough()) return;
    // One that cannot be copied is copied, or missed, when it is touched.
    const auto bytes = bytes_at(memory_, range.offset, range.length);
    (void)::madvise(bytes.data(), bytes.size(), MADV_POPULATE_WRITE);
  }
}

void WorkingSetReplay::begin() {
  if (ranges_.empty() || is_cached_) return;
  read_around(false);
  next_step();
}

bool WorkingSetReplay::is_in_page_cache() const {
  const std::size_t step = (ranges_.size() + kSamples - 1) / kSamples;
  for (std::size_t i = 0; i < ranges_.size(); i += step)
    if (!seems_cached(bytes_at(memory_, ranges_[i].offset, kGuestPageSize))) return false;
  std::optional<ReadsAlone> looked_at;
  for (std::size_t i = 0; i < ranges_.size(); i += step) {
    const int file = file_at(memory_, ranges_[i].offset);
    if (!looked_at || looked_at->file() != file) looked_at.emplace(file);
    if (!is_cached(file, ranges_[i].offset)) return false;
  }
  return true;
}

void WorkingSetReplay::on_complete(int /*result*/, bool /*more*/) noexcept {
  // A range that could not be read ahead is read when it is touched.
  if (next_ == ranges_.size()) {
    step_ = step_ == Step::Read ? Step::Map : Step::Done;
    next_ = 0;
  }
  if (step_ == Step::Done)
    read_around(true);
  else
    next_step();
}

void WorkingSetReplay::next_step() {
  const int advice = step_ == Step::Read ? MADV_WILLNEED : MADV_POPULATE_READ;
  const std::size_t end = std::min(next_ + kBatch, ranges_.size());
  for (; next_ + 1 < end; ++next_)
    loop_.advise_unwatched(bytes_at(memory_, ranges_[next_].offset, ranges_[next_].length), advice);
  loop_.advise(bytes_at(memory_, ranges_[next_].offset, ranges_[next_].length), advice, *this);
  ++next_;
}

void WorkingSetReplay::read_around(bool wanted) const {
  for (const GuestMemory::Region& region : memory_.regions())
    (void)::madvise(region.mapping.address(), region.size(), wanted ? MADV_NORMAL : MADV_RANDOM);
}

}  // namespace mayfly
