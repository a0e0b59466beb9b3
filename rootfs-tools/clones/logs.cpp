#include "api/client/deadline.h"
#include "rootfs-tools/clones/up.h"
#include "vmm/base/owned_fd.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <string_view>
#include <utility>

namespace mayfly::clones {
namespace {

class ConsoleCopy {
 public:
  ConsoleCopy(const OwnedFd& console, bool to_terminal) : console_(console), to_terminal_(to_terminal) {}

  /// All that is there by now; and no more than up to `end`: a guest may print faster than it is read.
  Status copy(off_t end = std::numeric_limits<off_t>::max()) {
    while (at_ < end) {
      const auto most = static_cast<std::size_t>(std::min<off_t>(static_cast<off_t>(piece_.size()), end - at_));
      const ssize_t count = ::pread(console_.get(), piece_.data(), most, at_);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return fail_errno(ErrorKind::System, "the console's file cannot be read");
      if (count == 0) break;
      // After the read: what the monitor has freed meanwhile is read as zeros.
      off_t kept = ::lseek(console_.get(), at_, SEEK_DATA);
      if (kept < 0 && errno == ENXIO)
        kept = ::lseek(console_.get(), 0, SEEK_END);  // a hole to its end, as of no monitor of ours
      if (kept > at_) {
        gone_ += kept - at_;
        at_ = kept;
        continue;
      }
      TRY(tell_what_is_gone());
      TRY(print({piece_.data(), static_cast<std::size_t>(count)}));
      at_ += count;
    }
    if (std::fflush(stdout) != 0) return fail_errno(ErrorKind::System, "standard output cannot be written to");
    return {};
  }

 private:
  Status tell_what_is_gone() {
    if (gone_ == 0) return {};
    if (std::fflush(stdout) != 0) return fail_errno(ErrorKind::System, "standard output cannot be written to");
    std::fprintf(stderr, "mayfly logs: %lld bytes are gone here; mayfly up --max-output says how much is kept\n",
                 static_cast<long long>(std::exchange(gone_, 0)));
    return {};
  }

  Status print(std::string_view text) const {
    // A guest's control characters could move, hide and even type.
    const std::string shown = to_terminal_ ? printable_lines(text) : std::string{text};
    if (std::fwrite(shown.data(), 1, shown.size(), stdout) == shown.size()) return {};
    return fail_errno(ErrorKind::System, "standard output cannot be written to");
  }

  const OwnedFd& console_;
  const bool to_terminal_;
  off_t at_ = 0;
  off_t gone_ = 0;  // and nobody was told yet
  std::array<char, 65536> piece_{};
};

}  // namespace

Status print_logs(const LogsOptions& options) {
  const auto place = TRY(find_clone(options.id, options.bases));
  const std::string path = place.directory / kConsole;
  // Before the first look: what is written in between wakes us.
  const OwnedFd news{::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)};
  if (options.follow && (!news || ::inotify_add_watch(news.get(), path.c_str(), IN_MODIFY | IN_DONT_FOLLOW) < 0))
    return fail_errno(ErrorKind::System, "cannot follow {}", path);
  const OwnedFd console{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
  struct stat status{};
  if (!console || ::fstat(console.get(), &status) != 0)
    return fail_errno(ErrorKind::NotFound, "{} cannot be opened", path);
  if (!S_ISREG(status.st_mode)) return fail(ErrorKind::State, "{} is no file any more", path);
  ConsoleCopy copy{console, ::isatty(STDOUT_FILENO) == 1};
  if (!options.follow) return copy.copy(status.st_size);
  TRY(copy.copy());
  while (place.pidfd) {
    std::array<pollfd, 2> watched{pollfd{.fd = news.get(), .events = POLLIN, .revents = 0},
                                  pollfd{.fd = place.pidfd.get(), .events = POLLIN, .revents = 0}};
    if (::poll(watched.data(), watched.size(), -1) < 0 && errno != EINTR)
      return fail_errno(ErrorKind::System, "cannot follow {}", path);
    std::array<std::byte, 4096> events;
    (void)!::read(news.get(), events.data(), events.size());
    TRY(copy.copy());
    if (watched[1].revents != 0) break;
  }
  return copy.copy();
}

}  // namespace mayfly::clones
