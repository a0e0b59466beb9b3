#include "tests/host-agent/hand_over.h"

#include "vmm/base/owned_fd.h"

#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>

#include <gtest/gtest.h>

namespace mayfly::host_agent {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

/// A function's end of a connection that was made before the request.
class HandOverTest : public ::testing::Test {
 protected:
  HandOverTest() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0)
      throw std::runtime_error{"no sockets"};
    host_ = OwnedFd{ends[0]};
    function_ = OwnedFd{ends[1]};
  }
  std::expected<std::string, Silence> ask(std::chrono::milliseconds patience = 10s) {
    return hand_over(http_request("GET / HTTP/1.1", ""), {.connection = host_.get(),
                                                          .machine = machine_.get(),
                                                          .asker = {.fd = asker_.get(), .events = POLLIN, .revents = 0},
                                                          .deadline = Deadline::clock::now() + patience,
                                                          .is_connected = true});
  }
  void say(std::string_view text) {
    ASSERT_EQ(::send(function_.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }

  OwnedFd host_, function_;
  OwnedFd machine_{::eventfd(0, EFD_CLOEXEC)};
  OwnedFd asker_{::eventfd(0, EFD_CLOEXEC)};
};

TEST_F(HandOverTest, TakesAConnectionThatIsThere) {
  say("HTTP/1.0 200 OK\r\n\r\nhello");
  ::shutdown(function_.get(), SHUT_WR);
  const auto answer = ask();
  ASSERT_TRUE(answer);
  EXPECT_EQ(*answer, "HTTP/1.0 200 OK\r\n\r\nhello");
  std::array<char, 256> got{};
  ASSERT_GT(::recv(function_.get(), got.data(), got.size(), 0), 0);
  EXPECT_STREQ(got.data(), "GET / HTTP/1.1\r\nHost: function\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
}

TEST_F(HandOverTest, SendsAheadWhatTheConnectionTakes) {
  const std::string request = http_request("POST / HTTP/1.1", std::string(4 << 20, 'x'));
  const std::string_view left = send_ahead(request, host_.get());
  ASSERT_FALSE(left.empty()) << "more than a socket takes while nobody reads";
  ASSERT_LT(left.size(), request.size());
  std::string got(request.size() - left.size(), '\0');
  for (std::size_t at = 0; at < got.size();) {
    const ssize_t count = ::recv(function_.get(), got.data() + at, got.size() - at, 0);
    ASSERT_GT(count, 0);
    at += static_cast<std::size_t>(count);
  }
  EXPECT_EQ(got + std::string{left}, request);
  function_.reset();
  EXPECT_EQ(send_ahead(left, host_.get()).size(), left.size()) << "nobody is there";
}

TEST_F(HandOverTest, AFunctionThatHangsUpWithoutHttpIsBroken) {
  say("SSH-2.0");
  ::shutdown(function_.get(), SHUT_WR);
  const auto answer = ask();
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error(), Silence::Broken);
}

TEST_F(HandOverTest, SaysWhoseSilenceItIs) {
  EXPECT_EQ(ask(20ms).error(), Silence::Late);
  ::eventfd_write(asker_.get(), 1);
  EXPECT_EQ(ask().error(), Silence::Unasked);
  ::eventfd_write(machine_.get(), 1);
  EXPECT_EQ(ask().error(), Silence::Died);
}

}  // namespace
}  // namespace mayfly::host_agent
