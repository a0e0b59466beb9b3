#include "vmm/base/unix_listener.h"

#include "vmm/base/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <utility>

namespace mayfly {
namespace {

constexpr int kBacklog = 128;

OwnedFd new_socket() { return OwnedFd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)}; }

/// What stands where the socket is to be made, and what to do about it.
std::unexpected<Error> refuse_occupied(std::string_view what, const std::string& path) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) {
    return fail(ErrorKind::InvalidArgument, "cannot make {} {}: a file that is no socket is there; choose another path",
                what, path);
  }
  const OwnedFd probe = new_socket();
  if (!probe) return fail_errno(ErrorKind::System, "cannot look who holds {} {}", what, path);
  const sockaddr_un address = unix_address(path);
  const bool refused =
      ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 && errno == ECONNREFUSED;
  if (refused) {
    return fail(
        ErrorKind::InvalidArgument,
        "cannot make {} {}: a stale socket is there, left by a process that has ended; remove it (rm {}) and start "
        "again",
        what, path, path);
  }
  return fail(ErrorKind::InvalidArgument,
              "cannot make {} {}: another process is listening there; choose another path or stop it", what, path);
}

std::unexpected<Error> refuse_bind(std::string_view what, const std::string& path) {
  const int error_number = errno;
  if (error_number == EADDRINUSE) return refuse_occupied(what, path);
  errno = error_number;
  const std::size_t slash = path.rfind('/');
  return fail_errno(ErrorKind::System, "cannot make {} {} in {}", what, path,
                    slash == std::string::npos ? "the current directory" : path.substr(0, slash + 1));
}

}  // namespace

Result<UnixListener> UnixListener::create(const std::string& path, std::string_view what) {
  if (path.empty()) return fail(ErrorKind::InvalidArgument, "the path of {} is empty", what);
  if (path.size() > kLongestSocketPath) {
    return fail(ErrorKind::InvalidArgument, "the path of {} is {} bytes long, and the kernel takes at most {}: {}",
                what, path.size(), kLongestSocketPath, path);
  }
  if (path.find('\0') != std::string::npos) {
    return fail(ErrorKind::InvalidArgument, "the path of {} has a NUL character", what);
  }
  OwnedFd fd = new_socket();
  if (!fd) return fail_errno(ErrorKind::System, "cannot make a Unix socket");
  // bind() gives the file the mode of the socket's own inode, less the umask: set before, it is never wider.
  if (::fchmod(fd.get(), S_IRUSR | S_IWUSR) != 0) {
    return fail_errno(ErrorKind::System, "cannot set the mode of {} {}", what, path);
  }
  const sockaddr_un address = unix_address(path);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return refuse_bind(what, path);
  // At once: a host that watches the directory connects as soon as the file is there.
  const bool listening = ::listen(fd.get(), kBacklog) == 0;
  const int error_number = errno;
  UnixListener listener{std::move(fd), path};
  struct stat status{};
  if (::lstat(path.c_str(), &status) == 0) {
    listener.device_ = status.st_dev;
    listener.inode_ = status.st_ino;
  }
  errno = error_number;
  if (!listening) return fail_errno(ErrorKind::System, "cannot listen on {} {}", what, path);
  return listener;
}

UnixListener::UnixListener(UnixListener&& other) noexcept
    : fd_(std::move(other.fd_)),
      path_(std::move(other.path_)),
      device_(std::exchange(other.device_, 0)),
      inode_(std::exchange(other.inode_, 0)) {}

UnixListener::~UnixListener() {
  if (!fd_) return;
  struct stat status{};
  const bool ours = ::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ && status.st_ino == inode_;
  if (ours) ::unlink(path_.c_str());
}

}  // namespace mayfly
