// A function as one static program, for an image that has nothing else. It serves HTTP at port 8080, as that in Python does
// (functions.py): any GET has the same answer, but for /requests, which is answered with how many there have been since its
// start. One thread, any number of connections.
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr std::uint16_t kPort = 8080;
constexpr std::size_t kLongestRequest = 16 * 1024;
constexpr std::string_view kHello = "hello from a clone\n";
constexpr std::string_view kEndOfHead = "\r\n\r\n";

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

struct Connection {
  int socket;
  std::string received;  ///< Not answered yet.
  bool is_over = false;
};

/// An answer fits into the socket's buffer, unless the client reads none of many: then this hangs up.
void answer(Connection& connection, const char* status, std::string_view body) {
  std::string text = std::string{"HTTP/1.1 "} + status + "\r\nContent-Length: " + std::to_string(body.size()) +
                     (connection.is_over ? "\r\nConnection: close" : "");
  text.append(kEndOfHead).append(body);
  const ssize_t sent = ::send(connection.socket, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(text.size())) connection.is_over = true;
}

void serve(Connection& connection, std::string_view head) {
  static unsigned long requests = 0;
  ++requests;
  const std::string_view line = head.substr(0, head.find("\r\n"));
  if (head.find("Connection: close") != std::string_view::npos || !line.ends_with(" HTTP/1.1"))
    connection.is_over = true;
  if (!line.starts_with("GET /")) {
    connection.is_over = true;  // its body is not read
    answer(connection, "501 Not Implemented", "");
  } else if (line.starts_with("GET /requests ")) {
    answer(connection, "200 OK", std::to_string(requests) + '\n');
  } else {
    answer(connection, "200 OK", kHello);
  }
}

void receive(Connection& connection) {
  std::array<char, 4096> piece;
  const ssize_t count = ::recv(connection.socket, piece.data(), piece.size(), MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0 || connection.received.size() > kLongestRequest) {
    connection.is_over = true;
    return;
  }
  std::string& received = connection.received.append(piece.data(), static_cast<std::size_t>(count));
  for (std::size_t end = 0; !connection.is_over && (end = received.find(kEndOfHead)) != std::string::npos;) {
    serve(connection, std::string_view{received}.substr(0, end));
    received.erase(0, end + kEndOfHead.size());
  }
}

int listen_at(std::uint16_t port) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (listener < 0 || ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      ::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener, SOMAXCONN) != 0)
    die("cannot listen");
  return listener;
}

}  // namespace

int main() {
  const int listener = listen_at(kPort);
  std::vector<Connection> connections;
  std::vector<pollfd> ready;
  for (;;) {
    ready.assign(1, {.fd = listener, .events = POLLIN, .revents = 0});
    for (const Connection& each : connections) ready.push_back({.fd = each.socket, .events = POLLIN, .revents = 0});
    if (::poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) die("cannot wait");
    for (std::size_t i = 0; i < connections.size(); ++i)
      if (ready[i + 1].revents != 0) receive(connections[i]);
    for (const Connection& each : connections)
      if (each.is_over) ::close(each.socket);
    std::erase_if(connections, [](const Connection& each) { return each.is_over; });
    if (ready[0].revents == 0) continue;
    const int socket = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket >= 0) connections.push_back({.socket = socket, .received = {}});
  }
}
