#include "api/client/api_client.h"

#include "api/json_reader.h"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <optional>

// Without cpp-httplib, whose client is 76 KiB of the binary and does not tell why nobody could be reached: what we ask
// for is a line and a body, and what comes back is a head and a body.

namespace mayfly {
namespace {

/// Far more than the metrics and the configuration of the largest machine.
constexpr std::size_t kLongestAnswer = 16 << 20;
constexpr std::string_view kEndOfHead = "\r\n\r\n";

struct Head {
  std::size_t size = 0;
  int status = 0;                        ///< 0: it is no HTTP.
  std::optional<std::size_t> body = {};  ///< Its length; none: up to the end of the connection.
};

/// The value of a header's line, where it is of this name (in small letters).
std::optional<std::string_view> value_in(std::string_view line, std::string_view name) {
  const auto small = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  if (line.size() <= name.size() || line[name.size()] != ':' ||
      !std::ranges::equal(line.substr(0, name.size()), name, {}, small))
    return std::nullopt;
  line.remove_prefix(std::min(line.find_first_not_of(' ', name.size() + 1), line.size()));
  return line;
}

template <typename Number>
Number number_in(std::string_view text) {
  Number number{};
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

/// None: it has not come to its end.
std::optional<Head> head_of(std::string_view answer) {
  const std::size_t end = answer.find(kEndOfHead);
  if (end == std::string_view::npos) return std::nullopt;
  Head head{.size = end + kEndOfHead.size()};
  constexpr std::string_view kBeforeStatus = "HTTP/1.1 ";
  if (answer.starts_with("HTTP/1.") && end > kBeforeStatus.size())
    head.status = number_in<int>(answer.substr(kBeforeStatus.size(), 3));
  for (std::size_t at = 0; at < end; at = answer.find("\r\n", at) + 2)
    if (const auto length = value_in(answer.substr(at, answer.find("\r\n", at) - at), "content-length"))
      head.body = number_in<std::size_t>(*length);
  constexpr int kNoContent = 204;
  if (head.status == kNoContent) head.body = 0;
  return head;
}

/// Whether nothing more is to come.
bool is_whole(std::string_view answer) {
  const auto head = head_of(answer);
  return head && head->body && answer.size() - head->size >= *head->body;
}

Status send_all(const OwnedFd& socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0) return fail_errno(ErrorKind::System, "the request cannot be sent");
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return {};
}

Result<std::string> receive(const OwnedFd& socket) {
  std::string answer;
  std::array<char, 4096> piece{};
  while (!is_whole(answer)) {
    const ssize_t count = ::recv(socket.get(), piece.data(), piece.size(), 0);
    if (count < 0 && errno == EAGAIN) return fail(ErrorKind::System, "no answer; it is stopped, or busy");
    if (count < 0) return fail_errno(ErrorKind::System, "no answer");
    if (count == 0) break;
    answer.append(piece.data(), static_cast<std::size_t>(count));
    if (answer.size() > kLongestAnswer)
      return fail(ErrorKind::TooLarge, "the answer has over {} bytes", kLongestAnswer);
  }
  return answer;
}

}  // namespace

Result<OwnedFd> ApiClient::connect() const {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path_.size() >= sizeof address.sun_path)
    return fail(ErrorKind::InvalidArgument, "the socket's path has {} bytes, and the kernel takes at most {}: {}",
                socket_path_.size(), sizeof address.sun_path - 1, socket_path_);
  socket_path_.copy(address.sun_path, socket_path_.size());
  OwnedFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  const timeval longest{.tv_sec = patience_.count(), .tv_usec = 0};
  if (!socket || ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &longest, sizeof longest) != 0 ||
      ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &longest, sizeof longest) != 0)
    return fail_errno(ErrorKind::System, "cannot make a socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return socket;
  if (errno == ENOENT) return fail(ErrorKind::NotFound, "there is no socket {}", socket_path_);
  if (errno == ECONNREFUSED)
    return fail(ErrorKind::NotFound, "nobody listens at {}: its machine has ended", socket_path_);
  if (errno == EACCES)
    return fail(ErrorKind::Permission, "no right to the socket {}; be the user of its machine, or root", socket_path_);
  return fail_errno(ErrorKind::System, "cannot connect to {}", socket_path_);
}

Result<std::string> ApiClient::send(std::string_view method, std::string_view path, std::string_view body) const {
  const auto socket = connect();
  if (!socket) return std::unexpected(socket.error());
  const std::string request = fmt::format(
      "{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n\r\n{}",
      method, path, body.size(), body);
  const std::string what = fmt::format("{} {} to {}", method, path, socket_path_);
  if (auto sent = send_all(*socket, request); !sent) return propagate(sent, what);
  auto answer = receive(*socket);
  if (!answer) return propagate(answer, what);
  const auto head = head_of(*answer);
  if (!head || answer->size() - head->size < head->body.value_or(0))
    return fail(ErrorKind::System, "{}: the connection ended before the answer did", what);
  if (head->status == 0) return fail(ErrorKind::System, "{}: the answer is no HTTP", what);
  answer->erase(0, head->size);
  if (head->status / 100 == 2) return answer;
  std::string sentence = text_member(*answer, "fault_message");
  if (sentence.empty()) return fail(ErrorKind::State, "{} is refused ({}): {}", what, head->status, *answer);
  return std::unexpected(Error{ErrorKind::State, std::move(sentence)});
}

Result<OwnedFd> ApiClient::process() const {
  const auto socket = connect();
  if (!socket) return std::unexpected(socket.error());
  ucred owner{};
  socklen_t length = sizeof owner;
  if (::getsockopt(socket->get(), SOL_SOCKET, SO_PEERCRED, &owner, &length) != 0)
    return fail_errno(ErrorKind::System, "cannot learn whose socket {} is", socket_path_);
  OwnedFd process{static_cast<int>(::syscall(SYS_pidfd_open, owner.pid, 0))};
  if (!process) return fail_errno(ErrorKind::System, "cannot watch process {}, which has {}", owner.pid, socket_path_);
  return process;
}

std::string text_member(const std::string& body, std::string_view name) {
  const auto json = parse_json(body, "the answer");
  const auto* object = json ? std::get_if<JsonValue::Object>(&json->data) : nullptr;
  if (object == nullptr) return "";
  for (const JsonMember& member : *object)
    if (member.name == name)
      if (const auto* text = std::get_if<std::string>(&member.value.data)) return *text;
  return "";
}

}  // namespace mayfly
