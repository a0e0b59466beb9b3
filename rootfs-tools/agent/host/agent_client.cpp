#include "rootfs-tools/agent/host/agent_client.h"

#include "vmm/base/printable.h"
#include "vmm/base/try.h"
#include "vmm/base/unix_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mayfly::agent {
namespace {

constexpr std::chrono::milliseconds kConnectPause{10};

bool is_cancelled_within(std::chrono::milliseconds time, int cancel) {
  pollfd ready{.fd = cancel, .events = POLLIN, .revents = 0};
  return ::poll(&ready, 1, static_cast<int>(time.count())) > 0;
}

/// DONE, or the error that stands for it.
Status is_done(const Frame& frame) {
  if (frame.type == FrameType::Done) return {};
  if (frame.type == FrameType::Refused) return refused(frame);
  return fail(ErrorKind::Guest, "the guest's agent answered with a frame ({}) that is none; are both of one version?",
              static_cast<unsigned>(frame.type));
}

/// Where the last copy was a directory's, the guest may have made it a link this time, and the next one would go to where
/// that leads.
Status check_no_link(const std::string& path) {
  struct stat itself{};
  struct stat target{};
  if (::lstat(path.c_str(), &itself) != 0 || !S_ISLNK(itself.st_mode)) return {};
  if (::stat(path.c_str(), &target) != 0 || !S_ISDIR(target.st_mode)) return {};  // it is replaced
  return fail(ErrorKind::State, "{} is a link to a directory; end it with a slash to copy into that directory",
              printable(path, kLongestShownName));
}

}  // namespace

AgentClient::AgentClient(std::string socket_path, AgentClientOptions options)
    : socket_path_(std::move(socket_path)), options_(options) {}

Result<OwnedFd> AgentClient::connect() const {
  const std::string path = printable(socket_path_, kLongestShownName);
  if (socket_path_.size() > kLongestSocketPath)
    return fail(ErrorKind::InvalidArgument, "the socket's path has {} bytes, and the kernel takes at most {}: {}",
                socket_path_.size(), kLongestSocketPath, path);
  OwnedFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!socket) return fail_errno(ErrorKind::System, "cannot make a socket");
  const sockaddr_un address = unix_address(socket_path_);
  const auto deadline = std::chrono::steady_clock::now() + options_.patience;
  while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN) {  // nothing tells when a listener that accepts nothing has room again
      if (std::chrono::steady_clock::now() >= deadline)
        return fail(ErrorKind::System, "{} takes no connection; its machine is stopped, or busy", path);
      if (is_cancelled_within(kConnectPause, options_.cancel)) return fail(ErrorKind::State, "interrupted");
      continue;
    }
    if (errno == ENOENT)
      return fail(ErrorKind::NotFound,
                  "there is no agent's socket {}; give the machine a channel that listens there (PUT /channels/{}), or "
                  "name another by --agent-socket",
                  path, kDefaultPort);
    if (errno == ECONNREFUSED) return fail(ErrorKind::NotFound, "nobody listens at {}: its machine has ended", path);
    if (errno == EACCES)
      return fail(ErrorKind::Permission, "no right to the socket {}; be the user of its machine, or root", path);
    return fail_errno(ErrorKind::System, "cannot connect to {}", path);
  }
  ucred owner{};
  socklen_t length = sizeof owner;
  if (options_.process != 0 &&
      (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &owner, &length) != 0 || owner.pid != options_.process))
    return fail(ErrorKind::Permission,
                "{} is no socket of process {}: process {} listens there; name the machine's by --agent-socket", path,
                options_.process, owner.pid);
  return socket;
}

Result<FrameStream> AgentClient::send(FrameType request, std::string_view payload) const {
  auto socket = connect();
  if (!socket) return propagate(socket);
  FrameStream stream{std::move(*socket), options_.cancel};
  TRY(stream.send(request, payload));
  return stream;
}

Result<Frame> AgentClient::first_answer(FrameStream& stream) const {
  auto frame = stream.receive(std::chrono::steady_clock::now() + options_.patience);
  if (frame) return frame;
  return fail(frame.error().kind, "the guest's agent at {}: {}; does the guest run mayfly-guest-agent?",
              printable(socket_path_, kLongestShownName), frame.error().message);
}

Result<FrameStream> AgentClient::ask(FrameType request, std::string_view payload) const {
  auto stream = send(request, payload);
  if (!stream) return stream;
  const auto answer = TRY(first_answer(*stream));
  TRY(is_done(answer));
  return stream;
}

Status AgentClient::ping() const {
  auto stream = ask(FrameType::Ping, "");
  if (!stream) return propagate(stream);
  return {};
}

Status AgentClient::power_off(std::chrono::seconds time) const {
  const auto seconds = std::clamp<std::chrono::seconds::rep>(time.count(), 0, kLongestStopSeconds);
  auto stream = ask(FrameType::PowerOff, encode_number(static_cast<std::uint32_t>(seconds)));
  if (!stream) return propagate(stream);
  return {};
}

Result<RawConnection> AgentClient::connect(std::uint16_t port, std::chrono::milliseconds wait) const {
  const auto wait_ms = std::clamp<std::chrono::milliseconds::rep>(wait.count(), 0, kLongestWaitMs);
  const ConnectRequest request{.port = port, .wait_ms = static_cast<std::uint32_t>(wait_ms)};
  AgentClientOptions longer = options_;
  longer.patience += wait;
  auto stream = TRY(AgentClient{socket_path_, longer}.ask(FrameType::Connect, encode(request)));
  RawConnection raw{.socket = {}, .first = std::string{stream.reader().rest()}};
  raw.socket = stream.take_socket();
  return raw;
}

Result<TreeCounts> AgentClient::get(const std::string& guest_path, const std::string& host_path,
                                    const TreeHooks& hooks) const {
  TRY(check_no_link(host_path));
  auto place = TRY(find_destination(host_path, name_of_source(guest_path)));
  const auto payload = TRY(encode(GetRequest{.path = guest_path}));
  auto stream = TRY(ask(FrameType::Get, payload));
  return receive_tree(stream, std::move(place), SetIdBits::Cleared, hooks);
}

Status AgentClient::put(const std::string& host_path, const std::string& guest_path, const TreeHooks& hooks) const {
  const auto source = TRY(find_source(host_path));
  const auto payload = TRY(encode(PutRequest{.path = guest_path, .name = name_of_source(host_path)}));
  auto stream = TRY(ask(FrameType::Put, payload));
  TreeHooks with_check = hooks;
  // The guest says at once what it cannot write.
  with_check.check = [&stream]() -> Status {
    auto frame = stream.poll();
    if (!frame) return propagate(frame);
    return *frame ? is_done(**frame) : Status{};
  };
  if (auto sent = send_tree(stream, source, with_check); !sent) {
    // Where the connection ended, the reason may have come before that.
    auto last = stream.poll();
    if (last && *last && (*last)->type == FrameType::Refused) return refused(**last);
    return sent;
  }
  auto answer = stream.receive();
  if (!answer) return propagate(answer);
  return is_done(*answer);
}

}  // namespace mayfly::agent
