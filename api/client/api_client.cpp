#include "api/client/api_client.h"

#include "api/client/answer_reader.h"
#include "vmm/base/printable.h"
#include "vmm/base/process_fd.h"
#include "vmm/base/unix_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>

// Without cpp-httplib's client, which is large and does not say why a connection failed. A request is a line and a
// body, an answer a head and a body (see answer_reader.h).

namespace mayfly {
namespace {

/// SO_PEERPIDFD, which older headers do not have.
constexpr int kPeerPidfd = 77;

/// How long, and what else ends the wait.
struct Wait {
  Deadline deadline;
  int cancel;
};

Status wait_for(const OwnedFd& socket, short events, const Wait& wait) {
  if (is_ready_by(wait.deadline, socket.get(), events, wait.cancel)) return {};
  if (wait.cancel >= 0 && time_left(wait.deadline).count() > 0) return fail(ErrorKind::System, "interrupted");
  return fail(ErrorKind::System, "no answer; it is stopped, or busy");
}

/// Whether the last call would have waited, or was interrupted.
bool is_to_be_repeated() { return errno == EAGAIN || errno == EINTR; }

Status send_all(const OwnedFd& socket, std::string_view bytes, const Wait& wait) {
  while (!bytes.empty()) {
    if (auto ready = wait_for(socket, POLLOUT, wait); !ready) return ready;
    const ssize_t count = ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count >= 0)
      bytes.remove_prefix(static_cast<std::size_t>(count));
    else if (!is_to_be_repeated())
      return fail_errno(ErrorKind::System, "the request cannot be sent");
  }
  return {};
}

Result<MachineAnswer> receive(const OwnedFd& socket, const Wait& wait) {
  AnswerReader reader;
  std::array<char, 4096> piece{};
  while (!reader.is_whole()) {
    if (auto ready = wait_for(socket, POLLIN, wait); !ready) return propagate(ready);
    const ssize_t count = ::recv(socket.get(), piece.data(), piece.size(), MSG_DONTWAIT);
    if (count < 0 && is_to_be_repeated()) continue;
    if (count < 0) return fail_errno(ErrorKind::System, "no answer");
    if (count == 0) break;
    if (auto taken = reader.take({piece.data(), static_cast<std::size_t>(count)}); !taken) return propagate(taken);
  }
  return std::move(reader).finish();
}

/// As connect() says; it waits where more wait already than the other side has room for.
int connect_by(Deadline deadline, const OwnedFd& socket, const sockaddr_un& address) {
  for (;;) {
    const auto left = std::max(time_left(deadline), std::chrono::milliseconds{1});  // 0 would be for ever
    const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
    const timeval longest{.tv_sec = seconds.count(), .tv_usec = std::chrono::microseconds{left - seconds}.count()};
    if (::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &longest, sizeof longest) != 0) return -1;
    const int connected = ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    if (connected == 0 || errno != EINTR || time_left(deadline).count() == 0) return connected;
  }
}

/// The process that called listen(). It may have ended, and may be another one than was meant.
Result<pid_t> listener_of(const OwnedFd& socket) {
  ucred owner{};
  socklen_t length = sizeof owner;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &owner, &length) != 0)
    return fail_errno(ErrorKind::System, "cannot learn whose socket it is");
  return owner.pid;
}

}  // namespace

std::string ApiClient::shown_path() const { return printable(socket_path_, kLongestShownName); }

Result<OwnedFd> ApiClient::connect(Deadline deadline) const {
  const std::string path = shown_path();
  if (socket_path_.size() > kLongestSocketPath)
    return fail(ErrorKind::InvalidArgument, "the socket's path has {} bytes, and the kernel takes at most {}: {}",
                socket_path_.size(), kLongestSocketPath, path);
  OwnedFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (!socket) return fail_errno(ErrorKind::System, "cannot make a socket");
  if (connect_by(deadline, socket, unix_address(socket_path_)) != 0) {
    if (errno == ENOENT) return fail(ErrorKind::NotFound, "there is no socket {}", path);
    if (errno == ECONNREFUSED) return fail(ErrorKind::NotFound, "nobody listens at {}: its machine has ended", path);
    if (errno == EACCES)
      return fail(ErrorKind::Permission, "no right to the socket {}; be the user of its machine, or root", path);
    if (errno == EAGAIN)
      return fail(ErrorKind::System, "{} takes no connection; its machine is stopped, or busy", path);
    return fail_errno(ErrorKind::System, "cannot connect to {}", path);
  }
  if (options_.process == 0) return socket;
  auto listener = listener_of(socket);
  if (!listener) return propagate(listener, path);
  if (*listener != options_.process)
    return fail(ErrorKind::Permission, "{} is no socket of process {}: process {} listens there", path,
                options_.process, *listener);
  return socket;
}

Result<OwnedFd> ApiClient::ask(std::string_view method, std::string_view path, std::string_view body,
                               Deadline deadline) const {
  auto socket = connect(deadline);
  if (!socket) return socket;
  const std::string request = fmt::format(
      "{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n\r\n{}",
      method, path, body.size(), body);
  if (auto sent = send_all(*socket, request, {.deadline = deadline, .cancel = options_.cancel}); !sent)
    return propagate(sent, what_of(method, path));
  return socket;
}

Result<OwnedFd> ApiClient::ask(std::string_view path) const { return ask("GET", path, "", deadline()); }

Result<std::string> ApiClient::send(std::string_view method, std::string_view path, std::string_view body) const {
  const Deadline until = deadline();
  const auto socket = ask(method, path, body, until);
  if (!socket) return std::unexpected(socket.error());
  const std::string what = what_of(method, path);
  auto answer = receive(*socket, {.deadline = until, .cancel = options_.cancel});
  if (!answer) return propagate(answer, what);
  return body_of(std::move(*answer), what);
}

std::string ApiClient::what_of(std::string_view method, std::string_view path) const {
  return fmt::format("{} {} to {}", method, path, shown_path());
}

Result<OwnedFd> ApiClient::process() const {
  const auto socket = connect(deadline());
  if (!socket) return std::unexpected(socket.error());
  int pidfd = -1;
  socklen_t length = sizeof pidfd;
  if (::getsockopt(socket->get(), SOL_SOCKET, kPeerPidfd, &pidfd, &length) == 0) return OwnedFd{pidfd};
  if (errno != ENOPROTOOPT) return fail_errno(ErrorKind::System, "cannot watch the process that has {}", shown_path());
  // Before Linux 6.5 there is but its number, which another may have by now.
  auto listener = listener_of(*socket);
  if (!listener) return propagate(listener, shown_path());
  OwnedFd process = open_process(*listener);
  if (!process) return fail_errno(ErrorKind::System, "cannot watch process {}, which has {}", *listener, shown_path());
  return process;
}

}  // namespace mayfly
