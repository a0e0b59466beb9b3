#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <string>
#include <string_view>

/// A listening Unix socket and the file that names it.
///
///   auto listener = UnixListener::create("/run/mayfly/vm.sock");
///   if (!listener) return propagate(listener);   // names the path and what to do about it
///   const int connection = ::accept4(listener->fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
namespace mayfly {

class UnixListener {
 public:
  /// Binds and listens, non-blocking. The file has mode 0600 from the moment it exists.
  /// Errors: a path that is empty or longer than the 107 bytes that the kernel takes, a missing directory, a file that
  /// is there already (the message tells a live server, a stale socket and another file apart).
  /// `what` is its name in errors.
  [[nodiscard]] static Result<UnixListener> create(const std::string& path, std::string_view what = "the API socket");

  UnixListener(UnixListener&& other) noexcept;
  UnixListener& operator=(UnixListener&&) = delete;
  UnixListener(const UnixListener&) = delete;
  UnixListener& operator=(const UnixListener&) = delete;
  /// Stops listening, and removes the file where it is still the one that was made here.
  ~UnixListener();

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  UnixListener(OwnedFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  OwnedFd fd_;
  std::string path_;
  dev_t device_ = 0;  // which file was made here
  ino_t inode_ = 0;
};

}  // namespace mayfly
