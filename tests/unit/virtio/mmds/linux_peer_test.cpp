// The metadata service against a TCP that nobody here wrote: the host's, through a TAP in a namespace of the test's
// own.

#include "tests/unit/virtio/mmds/stack_fixture.h"
#include "tests/unit/virtio/net/tap_namespace.h"
#include "virtio/net/net_header.h"
#include "virtio/net/tap.h"
#include "vmm/base/clock.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>

#include <array>
#include <cstring>
#include <optional>

namespace mayfly::testing {
namespace {

class LinuxPeerTest : public StackTest {
 protected:
  void SetUp() override {
    if (const std::string missing = space_.enter(); !missing.empty()) GTEST_SKIP() << missing;
    space_.add_tap("tap0");
    give_address();
    auto tap = Tap::open("tap0");
    ASSERT_TRUE(tap) << tap.error().message;
    tap_.emplace(std::move(*tap));
    // Checksums are left to us, as a guest does that its device has offered it to.
    ASSERT_TRUE(tap_->set_offloads({.checksum = true, .tso4 = true}));
    ASSERT_EQ(::fcntl(tap_->fd(), F_SETFL, O_NONBLOCK), 0);
  }

  /// A link-local one, so that the service's is on the link.
  static void give_address() {
    const OwnedFd fd{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    ifreq request{};
    std::strcpy(request.ifr_name, "tap0");
    sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {::inet_addr("169.254.1.2")}, .sin_zero = {}};
    std::memcpy(&request.ifr_addr, &address, sizeof address);
    ASSERT_EQ(::ioctl(fd.get(), SIOCSIFADDR, &request), 0);
  }

  /// What the service says to `request` until it ends the connection.
  std::string answer_to(std::string_view request) {
    const OwnedFd client{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    const sockaddr_in service{
        .sin_family = AF_INET, .sin_port = htons(80), .sin_addr = {::inet_addr("169.254.169.254")}, .sin_zero = {}};
    EXPECT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&service), sizeof service), -1);
    std::string answer;
    const std::uint64_t deadline = monotonic_ns() + 30 * kSecond;
    while (monotonic_ns() < deadline) {
      std::array<pollfd, 2> ready{pollfd{tap_->fd(), POLLIN, 0},
                                  pollfd{client.get(), static_cast<short>(request.empty() ? POLLIN : POLLOUT), 0}};
      const std::uint64_t until = std::min(deadline, stack_->deadline().value_or(deadline));
      const std::uint64_t now = monotonic_ns();
      (void)::poll(ready.data(), ready.size(), static_cast<int>(until > now ? (until - now) / kMillisecond + 1 : 0));
      pass_frames();
      if (ready[1].revents == 0) continue;
      if (!request.empty()) {
        const ssize_t sent = ::send(client.get(), request.data(), request.size(), MSG_NOSIGNAL);
        if (sent > 0) request.remove_prefix(static_cast<std::size_t>(sent));
        continue;
      }
      std::array<char, 4096> bytes;
      const ssize_t length = ::recv(client.get(), bytes.data(), bytes.size(), 0);
      if (length == 0) return answer;
      if (length > 0) answer.append(bytes.data(), static_cast<std::size_t>(length));
    }
    ADD_FAILURE() << "the service has not answered";
    return answer;
  }

  /// All that the host has for us, and we for it.
  void pass_frames() {
    now_ns_ = monotonic_ns();
    std::array<std::uint8_t, sizeof(NetHeader) + kMaximumFrameLength> bytes;
    ssize_t length = 0;
    while ((length = ::read(tap_->fd(), bytes.data(), bytes.size())) > static_cast<ssize_t>(sizeof(NetHeader))) {
      NetHeader header{};
      std::memcpy(&header, bytes.data(), sizeof header);
      const auto frame = std::span{bytes}.first(static_cast<std::size_t>(length)).subspan(sizeof header);
      if (!stack_->claims(frame)) continue;
      const bool left = (header.flags & net_abi::kNeedsCsum) != 0;
      saw_partial_ = saw_partial_ || left;
      stack_->receive(frame, left ? TcpChecksum::LeftToUs : TcpChecksum::Complete, now_ns_);
    }
    stack_->on_time(now_ns_);
    for (const Frame& frame : take_frames()) {
      Frame whole(sizeof(NetHeader));
      whole.insert(whole.end(), frame.begin(), frame.end());
      EXPECT_EQ(::write(tap_->fd(), whole.data(), whole.size()), static_cast<ssize_t>(whole.size()));
    }
  }

  TapNamespace space_;
  std::optional<Tap> tap_;
  bool saw_partial_ = false;
};

TEST_F(LinuxPeerTest, ReadsMetadataOnOneConnectionAfterTheOther) {
  for (int i = 0; i < 20; ++i) {
    const std::string answer = answer_to(get_request("/latest/meta-data/ami-id", "Connection: close\r\n"));
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
    EXPECT_EQ(body_of(answer), "ami-1");
  }
  EXPECT_TRUE(saw_partial_);
  EXPECT_EQ(metrics_.rx_accepted_err.value(), 0U);
}

TEST_F(LinuxPeerTest, ReadsManyAnswersOnOneConnection) {
  std::string requests;
  for (int i = 0; i < 30; ++i) requests += get_request("/latest/big");
  const std::string answer = answer_to(requests + get_request("/latest/meta-data/ami-id", "Connection: close\r\n"));
  std::size_t bodies = 0;
  for (std::size_t at = 0; (at = answer.find(big(), at)) != std::string::npos; ++at) ++bodies;
  EXPECT_EQ(bodies, 30U);
  EXPECT_TRUE(answer.ends_with("\r\n\r\nami-1"));
}

TEST_F(LinuxPeerTest, IsRefusedWhereNothingListens) {
  (void)answer_to(get_request("/", "Connection: close\r\n"));  // so that the address is known
  const OwnedFd client{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  const sockaddr_in closed{
      .sin_family = AF_INET, .sin_port = htons(81), .sin_addr = {::inet_addr("169.254.169.254")}, .sin_zero = {}};
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&closed), sizeof closed), -1);
  pass_frames();
  pollfd ready{client.get(), POLLOUT, 0};
  ASSERT_EQ(::poll(&ready, 1, 10'000), 1);
  int error = 0;
  socklen_t length = sizeof error;
  ASSERT_EQ(::getsockopt(client.get(), SOL_SOCKET, SO_ERROR, &error, &length), 0);
  EXPECT_EQ(error, ECONNREFUSED);
}

}  // namespace
}  // namespace mayfly::testing
