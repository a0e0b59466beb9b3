#include "rootfs-tools/agent/guest/dialer.h"

#include "rootfs-tools/agent/guest/identity.h"
#include "rootfs-tools/agent/guest/serve.h"
#include "rootfs-tools/agent/protocol.h"
#include "vmm/base/owned_fd.h"
#include "vmm/base/printable.h"
#include "vmm/base/text.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <string>
#include <utility>

namespace mayfly::agent {
namespace {

constexpr std::chrono::milliseconds kFirstPause{10};
constexpr std::chrono::milliseconds kLongestPause{1000};
constexpr std::chrono::milliseconds kShortLife{10};
/// The kernel's own attempts come after 1, 3 and 7 s, however soon the host is there again.
constexpr int kConnectMs = 2000;
constexpr std::uint16_t kMetadataPort = 80;
/// The service drops a SYN while its connections are all in use; the kernel's next one comes after a second.
constexpr std::chrono::milliseconds kMetadataPatience{2000};
/// For all attempts: a request may wait, and whoever powers the guest off gives it some seconds.
constexpr std::chrono::milliseconds kMetadataTime{3500};
constexpr std::chrono::milliseconds kMetadataPause{100};

void sleep_for(std::chrono::milliseconds time) {
  timespec left{.tv_sec = time.count() / 1000, .tv_nsec = time.count() % 1000 * 1'000'000};
  while (::nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

/// None: it was refused, or nobody answers.
OwnedFd dial(const sockaddr_in& host) {
  OwnedFd socket{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!socket) return socket;
  const int on = 1;
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&host), sizeof host) == 0) return socket;
  if (errno != EINPROGRESS) return OwnedFd{};
  pollfd ready{.fd = socket.get(), .events = POLLOUT, .revents = 0};
  int error = 0;
  socklen_t length = sizeof error;
  if (::poll(&ready, 1, kConnectMs) != 1 || ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0 ||
      error != 0)
    return OwnedFd{};
  return socket;
}

/// Waits for the first byte; false: the host hung up, or the connection was reset.
bool is_wanted(const OwnedFd& idle) {
  pollfd ready{.fd = idle.get(), .events = POLLIN | POLLRDHUP, .revents = 0};
  while (::poll(&ready, 1, -1) < 0) {
    if (errno != EINTR) return false;
  }
  char first = 0;
  return ::recv(idle.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

/// A guest without metadata, or with some that mean nothing, stays who it is. A timeout is retried before anything is
/// served: a clone would else act as its template.
void become_who_the_host_says(sockaddr_in host) {
  host.sin_port = htons(kMetadataPort);
  const auto deadline = std::chrono::steady_clock::now() + kMetadataTime;
  auto identity = fetch_identity(host, kMetadataPatience);
  while (!identity && identity.error().kind == ErrorKind::System && std::chrono::steady_clock::now() < deadline) {
    sleep_for(kMetadataPause);
    identity = fetch_identity(host, kMetadataPatience);
  }
  const Status taken = !identity ? std::unexpected(identity.error()) : *identity ? take_identity(**identity) : Status{};
  if (!taken) std::fprintf(stderr, "mayfly-guest-agent: %s\n", taken.error().message.c_str());
}

/// In a process of its own: whatever comes of it, the next is served, and nothing of it stays.
void serve_apart(OwnedFd socket, const Defaults& defaults) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGCHLD, SIG_DFL);
    serve(std::move(socket), defaults);
    ::_exit(0);
  }
  if (child > 0) return;
  const std::string sentence = "the guest cannot start a process: " + errno_text(errno);
  const std::string frame = whole_frame(FrameType::Refused, encode(Refusal{.sentence = sentence}));
  (void)!::write(socket.get(), frame.data(), frame.size());
}

}  // namespace

Result<sockaddr_in> parse_address(std::string_view text) {
  const std::size_t colon = std::min(text.rfind(':'), text.size());
  const auto port = whole_number<std::uint16_t>(text.substr(std::min(colon + 1, text.size())));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  if (!port || *port == 0 || ::inet_pton(AF_INET, std::string{text.substr(0, colon)}.c_str(), &address.sin_addr) != 1)
    return fail(ErrorKind::InvalidArgument, "the address '{}' must be like 169.254.169.254:1024",
                printable(text, kLongestShownName));
  address.sin_port = htons(*port);
  return address;
}

std::chrono::milliseconds Backoff::next() noexcept {
  const auto now = next_;
  next_ = std::clamp(next_ * 2, kFirstPause, kLongestPause);
  return now;
}

void dial_for_ever(const sockaddr_in& host, const Defaults& defaults) {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGCHLD, SIG_IGN);  // children leave no zombies
  Backoff backoff;
  bool is_new = defaults.init_is_parent;  // else this is no guest of ours to change
  for (;;) {
    OwnedFd idle = dial(host);
    // A host that comes now waits until the guest is who it is.
    if (idle && std::exchange(is_new, false)) become_who_the_host_says(host);
    const auto begun = std::chrono::steady_clock::now();
    if (!idle || !is_wanted(idle)) {
      // A reset is no reason to wait: after a restore, it is how the host says hello. Unless it comes at once.
      if (idle) is_new = defaults.init_is_parent;
      if (idle && std::chrono::steady_clock::now() - begun >= kShortLife) backoff.reset();
      sleep_for(backoff.next());
      continue;
    }
    backoff.reset();
    serve_apart(std::move(idle), defaults);
  }
}

}  // namespace mayfly::agent
