#include "tests/support/pending_request.h"

#include "vmm/base/process_fd.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace mayfly::testing {
namespace {

bool is_readable_until(int fd, double deadline_us) {
  for (;;) {
    pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
    const double left_ms = std::max(0.0, std::ceil((deadline_us - now_us()) / 1e3));
    if (::poll(&ready, 1, static_cast<int>(left_ms)) > 0) return true;
    if (left_ms <= 0) return false;
  }
}

}  // namespace

PendingRequest::PendingRequest(const std::string& socket, const std::string& method, const std::string& path,
                               const std::string& body)
    : connection_(connect_unix(socket)) {
  const std::string text = method + " " + path +
                           " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(body.size()) +
                           "\r\n\r\n" + body;
  if (::send(connection_.get(), text.data(), text.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(text.size()))
    give_up("cannot send " + method + " " + path);
}

std::optional<HttpAnswer> PendingRequest::answer_within(double seconds) {
  const double deadline_us = now_us() + seconds * 1e6;
  for (;;) {
    if (auto answer = whole_answer()) return answer;
    if (!is_readable_until(connection_.get(), deadline_us)) return std::nullopt;
    std::array<char, 16384> piece{};
    const ssize_t count = ::recv(connection_.get(), piece.data(), piece.size(), 0);
    if (count <= 0) return std::nullopt;
    text_.append(piece.data(), static_cast<std::size_t>(count));
  }
}

std::optional<HttpAnswer> PendingRequest::whole_answer() const {
  const std::size_t head = text_.find("\r\n\r\n");
  if (head == std::string::npos) return std::nullopt;
  const std::string key = "Content-Length: ";
  const std::size_t length = text_.find(key);
  const std::size_t wanted = length < head ? std::strtoul(text_.c_str() + length + key.size(), nullptr, 10) : 0;
  if (text_.size() < head + 4 + wanted) return std::nullopt;
  return HttpAnswer{static_cast<int>(std::strtol(text_.c_str() + std::strlen("HTTP/1.1 "), nullptr, 10)),
                    text_.substr(head + 4, wanted)};
}

bool has_ended_within(const ChildProcess& process, double seconds) {
  const OwnedFd process_fd = open_process(process.pid());
  if (!process_fd) give_up("there is no process " + std::to_string(process.pid()));
  return is_readable_until(process_fd.get(), now_us() + seconds * 1e6);
}

}  // namespace mayfly::testing
