#include "api/client/api_client.h"

#include "api/json_reader.h"
#include "vmm/base/owned_fd.h"

#include <httplib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace mayfly {
namespace {

/// The sentence of a refusal, or all of its body where it is nothing of ours.
std::string sentence_of(const std::string& body) {
  const auto json = parse_json(body, "the answer");
  if (!json) return body;
  const auto* object = std::get_if<JsonValue::Object>(&json->data);
  if (object == nullptr) return body;
  for (const JsonMember& member : *object)
    if (member.name == "fault_message")
      if (const auto* text = std::get_if<std::string>(&member.value.data)) return *text;
  return body;
}

/// What the library does not tell: why nobody could be reached.
Status look_at_socket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return fail(ErrorKind::InvalidArgument, "the socket's path has {} bytes, and the kernel takes at most {}: {}",
                path.size(), sizeof address.sun_path - 1, path);
  path.copy(address.sun_path, path.size());
  const OwnedFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (!socket) return fail_errno(ErrorKind::System, "cannot make a socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return {};
  if (errno == ENOENT) return fail(ErrorKind::NotFound, "there is no socket {}", path);
  if (errno == ECONNREFUSED) return fail(ErrorKind::NotFound, "nobody listens at {}: its machine has ended", path);
  if (errno == EACCES) return fail_errno(ErrorKind::Permission, "{}: ask whoever started the machine, or root", path);
  return fail_errno(ErrorKind::System, "cannot connect to {}", path);
}

}  // namespace

struct ApiClient::Connection {
  explicit Connection(const std::string& path) : client(path) {
    client.set_address_family(AF_UNIX);
    client.set_keep_alive(true);
    client.set_read_timeout(std::chrono::hours{1});
  }
  httplib::Client client;
};

ApiClient::ApiClient(std::string socket_path) : socket_path_(std::move(socket_path)) {}
ApiClient::ApiClient(ApiClient&&) noexcept = default;
ApiClient& ApiClient::operator=(ApiClient&&) noexcept = default;
ApiClient::~ApiClient() = default;

Result<std::string> ApiClient::send(const std::string& method, const std::string& path, const std::string& body) {
  if (!connection_) {
    if (auto reachable = look_at_socket(socket_path_); !reachable) return propagate(reachable);
    connection_ = std::make_unique<Connection>(socket_path_);
  }
  httplib::Request request;
  request.method = method;
  request.path = path;
  request.body = body;
  request.set_header("Host", "localhost");
  if (!body.empty()) request.set_header("Content-Type", "application/json");
  const httplib::Result result = connection_->client.send(request);
  if (!result)
    return fail(ErrorKind::System, "{}: no answer to {} {} ({})", socket_path_, method, path,
                httplib::to_string(result.error()));
  if (result->status / 100 != 2)
    return fail(ErrorKind::State, "{} {} is refused: {}", method, path, sentence_of(result->body));
  return result->body;
}

}  // namespace mayfly
