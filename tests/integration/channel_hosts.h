#pragma once

#include "vmm/base/owned_fd.h"
#include "vmm/base/unix_socket.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>

/// Processes of the host at the sockets of channels.
namespace mayfly::testing {

/// Waits for `events`.
inline void await(int fd, short events) {
  pollfd state{.fd = fd, .events = events, .revents = 0};
  if (::poll(&state, 1, 20'000) != 1) throw std::runtime_error("the guest says nothing");
}

/// A host's end of a channel. It sends `bytes`, and gives what has come back, up to `length` bytes or the end.
inline std::string exchange_on(int fd, std::string_view bytes, std::size_t length) {
  std::string got;
  while (got.size() < length) {
    await(fd, static_cast<short>(bytes.empty() ? POLLIN : POLLIN | POLLOUT));
    if (const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT); n > 0)
      bytes.remove_prefix(static_cast<std::size_t>(n));
    std::array<char, 65536> piece;
    const ssize_t n = ::recv(fd, piece.data(), piece.size(), MSG_DONTWAIT);
    if (n == 0) break;
    if (n > 0) got.append(piece.data(), static_cast<std::size_t>(n));
  }
  return got;
}

inline bool is_at_end_of(int fd) {
  await(fd, POLLIN);
  char byte = 0;
  return ::recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

/// A process of the host at a channel that listens.
inline OwnedFd connect_to_channel(const std::string& path) {
  OwnedFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  const sockaddr_un address = unix_address(path);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    throw std::runtime_error("nobody listens at " + path);
  return socket;
}

/// A host's socket behind a channel, and what it has accepted.
class HostListener {
 public:
  explicit HostListener(const std::string& path) {
    listener_ = OwnedFd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    const sockaddr_un address = unix_address(path);
    if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(listener_.get(), 8) != 0)
      throw std::runtime_error("no listener at " + path);
  }
  /// Waits for the guest.
  void accept() {
    await(listener_.get(), POLLIN);
    connection_ = OwnedFd{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)};
  }
  [[nodiscard]] int fd() const { return connection_.get(); }
  void end_sending() const { ::shutdown(fd(), SHUT_WR); }
  void close() { connection_.reset(); }
  [[nodiscard]] std::string exchange(std::string_view bytes, std::size_t length) const {
    return exchange_on(fd(), bytes, length);
  }
  [[nodiscard]] bool is_at_end() const { return is_at_end_of(fd()); }

 private:
  OwnedFd listener_, connection_;
};

/// PUT /channels/1024 of one that listens.
inline std::string listening(const std::string& path) {
  return R"({"port": 1024, "uds_path": ")" + path + R"(", "listen": true})";
}

}  // namespace mayfly::testing
