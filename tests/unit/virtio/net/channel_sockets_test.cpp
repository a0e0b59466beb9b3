// Channels whole: a guest's driver and TCP at one end, a Unix socket of the host at the other, the ring in between.
#include "virtio/net/channel_sockets.h"

#include "tests/support/child_process.h"
#include "tests/unit/virtio/mmds/fake_guest.h"
#include "tests/unit/virtio/net/fake_network.h"
#include "virtio/mmds/network_stack.h"
#include "vmm/base/unix_listener.h"
#include "vmm/base/unix_socket.h"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

constexpr std::uint16_t kChannel = 1000;
constexpr std::uint16_t kListening = 1002;

/// A listening socket of the host.
class ChannelHost {
 public:
  explicit ChannelHost(const std::string& path, int backlog = 64) {
    listener_ = OwnedFd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    const sockaddr_un address = unix_address(path);
    if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(listener_.get(), backlog) != 0)
      throw std::runtime_error("no listener");
  }
  [[nodiscard]] OwnedFd accept() const {
    return OwnedFd{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
  }

 private:
  OwnedFd listener_;
};

std::string numbers(std::size_t length) {
  std::string text;
  for (std::size_t i = 0; text.size() < length; ++i) text += std::to_string(i) + ',';
  text.resize(length);
  return text;
}

class ChannelSocketsTest : public ::testing::Test {
 protected:
  ChannelSocketsTest() {
    (void)log_.configure({.level = LogLevel::Off});
    net_.emplace(FakeNetwork::Options{.config = {.iface_id = "eth0"},
                                      .tap = &none_,
                                      .make_responder = [this](EventLoop& loop) { return make(loop); }});
    net_->start();
    net_->post(100, 1536);
  }
  std::unique_ptr<FrameResponder> make(EventLoop& loop) {
    auto stack = std::make_unique<NetworkStack>(service_, SipKey{2}, mmds_metrics_);
    stack_ = stack.get();
    listener_.emplace(socket_.fd(), "channel 1002", loop, log_);
    auto sockets = std::make_unique<ChannelSockets>(
        std::vector<ChannelSockets::Channel>{{.port = kChannel, .uds_path = path_},
                                             {.port = 1001, .uds_path = path_ + "-not"},
                                             {.port = kListening, .listener = &*listener_}},
        loop, log_, "network interface eth0");
    sockets_ = sockets.get();
    stack->serve_channels(std::move(sockets), metrics_);
    return stack;
  }

  void say(const std::vector<Frame>& frames) {
    for (const Frame& frame : frames) {
      const auto bytes = std::as_bytes(std::span{frame});
      net_->transmit({{}, Bytes(bytes.begin(), bytes.end())});
    }
  }
  /// Serves both ends until `reached`.
  template <typename Reached>
  void serve_until(TcpClient& client, Reached reached) {
    net_->serve_until([&] {
      (void)net_->take_transmitted();
      for (const Packet& packet : net_->take_received()) {
        Frame frame;
        for (const std::byte byte : packet.frame) frame.push_back(std::to_integer<std::uint8_t>(byte));
        const auto segment = read_service_segment(frame);
        if (segment) payload_ += segment->payload.size();
        if (segment && segment->destination_port == client.port()) say(client.take(*segment));
      }
      return reached();
    });
  }
  TcpClient client_at(std::uint16_t port, std::uint16_t channel = kChannel) {
    TcpClient client{port};
    client.service_port = channel;
    return client;
  }
  OwnedFd connect(TcpClient& client, const ChannelHost& host) {
    say(client.resend());
    OwnedFd socket;
    serve_until(client, [&] { return client.open() && (socket = host.accept()); });
    return socket;
  }
  /// A connection of the guest that waits for a process of the host.
  TcpClient parked(std::uint16_t port) {
    TcpClient client = client_at(port, kListening);
    say(client.resend());
    serve_until(client, [&] { return client.open(); });
    return client;
  }
  /// A process of the host that connects; it does not wait.
  [[nodiscard]] OwnedFd come() const {
    OwnedFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    const sockaddr_un address = unix_address(socket_.path());
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      throw std::runtime_error("nobody listens");
    return socket;
  }
  /// All that is there: the loop does not tell of more. Whether that was the end.
  static bool take_all(const OwnedFd& socket, std::string& got) {
    std::array<char, 65536> piece;
    for (;;) {
      const ssize_t n = ::recv(socket.get(), piece.data(), piece.size(), MSG_DONTWAIT);
      if (n <= 0) return n == 0;
      got.append(piece.data(), static_cast<std::size_t>(n));
    }
  }
  static bool hears(const OwnedFd& socket, std::string_view text) {
    std::string got(text.size(), 0);
    return ::recv(socket.get(), got.data(), got.size(), MSG_DONTWAIT) == std::ssize(got) && got == text;
  }
  static bool is_at_end(const OwnedFd& socket) {
    char byte = 0;
    return ::recv(socket.get(), &byte, 1, MSG_DONTWAIT) == 0;
  }
  void expect_all_given_back(TcpClient& client) {
    serve_until(client, [&] { return sockets_->taken_count() == 0; });
    EXPECT_EQ(stack_->channels()->connection_count(), 0u);
  }

  ScratchDirectory scratch_;
  std::string path_ = scratch_.file("channel");
  MmdsMetrics mmds_metrics_;
  ChannelMetrics metrics_;
  MetadataStore store_;
  Log log_{"test"};
  Tap none_ = Tap::none();
  UnixListener socket_ = std::move(*UnixListener::create(scratch_.file("listening")));
  std::optional<ChannelListener> listener_;
  MetadataService service_{
      {.network_interfaces = {"eth0"}}, store_, {SessionTokens{SipKey{1}, 0}, 0x5EED}, mmds_metrics_};
  std::size_t payload_ = 0;  // of what has come to the guest
  NetworkStack* stack_ = nullptr;
  ChannelSockets* sockets_ = nullptr;
  std::optional<FakeNetwork> net_;
};

TEST_F(ChannelSocketsTest, MuchGoesBothWaysAtOnceAndBothEndsEnd) {
  const ChannelHost host{path_};
  TcpClient client = client_at(40'000);
  OwnedFd socket = connect(client, host);
  const std::string up = numbers(1'000'000);
  const std::string down = numbers(1'500'000);
  say(client.send(up));
  say(client.finish());
  std::string got;
  std::size_t given = 0;
  bool ended = false;
  serve_until(client, [&] {
    if (given < down.size()) {
      const ssize_t n = ::send(socket.get(), down.data() + given, down.size() - given, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) given += static_cast<std::size_t>(n);
      if (given == down.size()) ::shutdown(socket.get(), SHUT_WR);
    }
    ended = take_all(socket, got);
    return ended && client.saw_end();
  });
  EXPECT_TRUE(got == up);
  EXPECT_TRUE(client.received() == down);
  EXPECT_EQ(payload_, down.size());  // each byte once: nothing had to wait for a time-out
  EXPECT_FALSE(client.was_reset());
  expect_all_given_back(client);
  EXPECT_EQ(metrics_.rx_bytes.value(), up.size());
  EXPECT_EQ(metrics_.tx_bytes.value(), down.size());
}

TEST_F(ChannelSocketsTest, FramesThatTheDriverLeftUnsegmentedAreTakenWhole) {
  const ChannelHost host{path_};
  TcpClient client = client_at(40'000);
  client.segment_length = 65'535 - 40;  // what an IP packet holds
  OwnedFd socket = connect(client, host);
  const std::string text = numbers(1'000'000);
  say(client.send(text));
  say(client.finish());
  std::string got;
  serve_until(client, [&] { return take_all(socket, got); });
  EXPECT_TRUE(got == text);
}

TEST_F(ChannelSocketsTest, NobodyThereIsAReset) {
  TcpClient client = client_at(40'000, 1001);
  say(client.resend());
  serve_until(client, [&] { return client.was_reset(); });
  EXPECT_EQ(sockets_->taken_count(), 0u);
}

TEST_F(ChannelSocketsTest, AHostThatGoesGivesItsLastWordsAndAReset) {
  const ChannelHost host{path_};
  TcpClient client = client_at(40'000);
  OwnedFd socket = connect(client, host);
  ASSERT_EQ(::send(socket.get(), "bye", 3, MSG_NOSIGNAL), 3);
  socket.reset();
  serve_until(client, [&] { return client.saw_end(); });
  EXPECT_EQ(client.received(), "bye");
  say(client.send("hello?"));
  serve_until(client, [&] { return client.was_reset(); });
  expect_all_given_back(client);
}

TEST_F(ChannelSocketsTest, AHostThatDoesNotReadHoldsOneConnectionAndNoOther) {
  const ChannelHost host{path_};
  TcpClient slow = client_at(40'000);
  OwnedFd slow_socket = connect(slow, host);
  say(slow.send(numbers(4'000'000)));
  TcpClient other = client_at(40'001);
  OwnedFd socket = connect(other, host);
  say(other.send("quick"));
  std::array<char, 16> piece{};
  serve_until(other, [&] { return ::recv(socket.get(), piece.data(), piece.size(), MSG_DONTWAIT) == 5; });
  EXPECT_FALSE(slow.all_acknowledged());
  say({slow.reset()});
  serve_until(slow, [&] { return sockets_->taken_count() == 1; });
}

TEST_F(ChannelSocketsTest, AListenerThatDoesNotAcceptIsAskedAgain) {
  const ChannelHost host{path_, 0};
  TcpClient first = client_at(40'000);
  say(first.resend());
  serve_until(first, [&] { return first.open(); });  // the one that may wait to be accepted
  TcpClient second = client_at(40'001);
  say(second.resend());
  say({arp_frame()});
  (void)net_->receive_one();  // served behind it, so it was looked at
  EXPECT_FALSE(second.open() || second.was_reset());
  EXPECT_TRUE(host.accept());
  say(second.resend());
  serve_until(second, [&] { return second.open(); });
}

TEST_F(ChannelSocketsTest, AResetOfTheDriverEndsTheHostsSide) {
  const ChannelHost host{path_};
  TcpClient client = client_at(40'000);
  OwnedFd socket = connect(client, host);
  net_->host->reset();
  std::array<char, 16> piece{};
  net_->serve_until([&] { return ::recv(socket.get(), piece.data(), piece.size(), MSG_DONTWAIT) == 0; });
  EXPECT_EQ(sockets_->taken_count(), 0u);
}

// --- Channels that listen --------------------------------------------------------------------------------------------

TEST_F(ChannelSocketsTest, AHostsProcessGetsTheConnectionThatHasWaitedLongest) {
  TcpClient first = parked(40'000);
  TcpClient second = parked(40'001);
  const OwnedFd one = come();
  const OwnedFd two = come();
  ASSERT_EQ(::send(one.get(), "to the first", 12, MSG_NOSIGNAL), 12);
  ASSERT_EQ(::send(two.get(), "to the second", 13, MSG_NOSIGNAL), 13);
  serve_until(first, [&] { return first.received() == "to the first"; });
  say(second.resend());  // what came for it meanwhile is sent again
  serve_until(second, [&] { return second.received() == "to the second"; });
  say(first.send("from the first"));
  serve_until(first, [&] { return hears(one, "from the first"); });
}

TEST_F(ChannelSocketsTest, HostsWaitInTheBacklogWhileNoGuestDoes) {
  const OwnedFd early = come();
  ASSERT_EQ(::send(early.get(), "early", 5, MSG_NOSIGNAL), 5);
  TcpClient client = parked(40'000);
  serve_until(client, [&] { return client.received() == "early"; });
  // While none waits nobody is accepted, though the loop goes round.
  const OwnedFd late = come();
  ASSERT_EQ(::send(early.get(), "more", 4, MSG_NOSIGNAL), 4);
  serve_until(client, [&] { return client.received() == "earlymore"; });
  EXPECT_EQ(sockets_->taken_count(), 1u);
  EXPECT_FALSE(is_at_end(late));
}

TEST_F(ChannelSocketsTest, WhatAGuestSaysWhileItWaitsIsTheHostsThatComes) {
  TcpClient client = parked(40'000);
  const std::string text = numbers(300'000);  // more than is kept, which shuts the window
  say(client.send(text));
  say(client.finish());
  const OwnedFd host = come();
  std::string got;
  serve_until(client, [&] { return take_all(host, got); });
  EXPECT_TRUE(got == text);
}

TEST_F(ChannelSocketsTest, AGuestThatHangsUpWhileItWaitsGivesItsPlaceBack) {
  TcpClient ended = parked(40'000);
  say(ended.finish());
  serve_until(ended, [&] { return ended.saw_end(); });
  TcpClient reset = parked(40'001);
  say({reset.reset()});
  expect_all_given_back(ended);
  TcpClient next = parked(40'002);
  const OwnedFd host = come();
  ASSERT_EQ(::send(host.get(), "hello", 5, MSG_NOSIGNAL), 5);
  serve_until(next, [&] { return next.received() == "hello"; });
}

TEST_F(ChannelSocketsTest, AHostIsNotGivenToAGuestThatHasHungUp) {
  TcpClient ended = parked(40'000);
  say(ended.finish());
  // Its kernel does not answer yet: the connection is there, and wants nobody.
  net_->serve_until([&] { return !net_->take_received().empty(); });
  const OwnedFd host = come();
  const ChannelHost elsewhere{path_};
  TcpClient other = client_at(40'002);
  const OwnedFd socket = connect(other, elsewhere);
  ASSERT_EQ(::send(socket.get(), "later", 5, MSG_NOSIGNAL), 5);
  serve_until(other, [&] { return other.received() == "later"; });
  EXPECT_FALSE(is_at_end(host));
  TcpClient next = parked(40'001);
  say(next.send("hello"));
  serve_until(next, [&] { return hears(host, "hello"); });
}

TEST_F(ChannelSocketsTest, AGuestThatSpeaksAndIsResetBeforeAHostComesLeavesNothing) {
  TcpClient client = parked(40'000);
  say(client.send("said to nobody"));
  say(client.finish());
  serve_until(client, [&] { return client.all_acknowledged(); });
  say({client.reset()});
  expect_all_given_back(client);
}

TEST_F(ChannelSocketsTest, AHostThatWasGoneBeforeItsTurnEndsOneConnection) {
  (void)come();
  TcpClient client = parked(40'000);
  serve_until(client, [&] { return client.saw_end(); });
  say(client.finish());
  expect_all_given_back(client);
}

TEST_F(ChannelSocketsTest, AHostThatNeverSpeaksHoldsOneConnectionUntilItGoes) {
  TcpClient silent = parked(40'000);
  OwnedFd host = come();
  TcpClient other = parked(40'001);  // served behind it, so the first has a host
  const OwnedFd second = come();
  say(other.send("quick"));
  serve_until(other, [&] { return hears(second, "quick"); });
  host.reset();
  serve_until(silent, [&] { return silent.saw_end(); });
  say(silent.finish());
  serve_until(silent, [&] { return sockets_->taken_count() == 1; });
}

TEST_F(ChannelSocketsTest, AResetOfTheDriverEndsThoseThatWait) {
  (void)parked(40'000);
  net_->host->reset();
  net_->serve_until([&] { return sockets_->taken_count() == 0; });
  const OwnedFd host = come();
  net_->start();
  net_->post(100, 1536);
  TcpClient client = parked(40'001);
  say(client.send("again"));
  serve_until(client, [&] { return hears(host, "again"); });
}

TEST_F(ChannelSocketsTest, AHostWaitsWhileThereAreNoDescriptors) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const OwnedFd host = come();
  const OwnedFd highest{::dup(host.get())};
  const rlimit none_left{.rlim_cur = static_cast<rlim_t>(highest.get()), .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none_left), 0);
  TcpClient client = parked(40'000);
  say(client.send("patience"));
  serve_until(client, [&] { return client.all_acknowledged(); });
  EXPECT_FALSE(hears(host, "patience"));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  serve_until(client, [&] { return hears(host, "patience"); });
}

// --- Many ------------------------------------------------------------------------------------------------------------

std::size_t open_files() {
  const std::filesystem::directory_iterator files{"/proc/self/fd"};
  return static_cast<std::size_t>(std::distance(begin(files), end(files)));
}

TEST_F(ChannelSocketsTest, ThousandsOneAfterTheOtherLeaveNoDescriptorAndNoPlaceTaken) {
  const ChannelHost host{path_};
  const std::size_t files = open_files();
  for (std::uint16_t i = 0; i < 2000; ++i) {
    const bool listens = i % 2 == 0;
    TcpClient client = client_at(static_cast<std::uint16_t>(20'000 + i), listens ? kListening : kChannel);
    OwnedFd socket;
    if (listens) {
      client = parked(client.port());
      socket = come();
      say(client.send("hello"));
    } else {
      socket = connect(client, host);
      say(client.send("hello"));
    }
    serve_until(client, [&] { return hears(socket, "hello"); });
    if (i % 4 < 2) {
      say(client.finish());
      serve_until(client, [&] { return is_at_end(socket); });
    }
    socket.reset();
    serve_until(client, [&] { return client.saw_end(); });
    if (i % 4 >= 2) say(client.finish());
    serve_until(client, [&] { return sockets_->taken_count() == 0; });
  }
  EXPECT_EQ(open_files(), files);
  EXPECT_EQ(metrics_.connections_created.value(), 2000u);
  EXPECT_EQ(metrics_.connections_destroyed.value(), 2000u);
}

TEST_F(ChannelSocketsTest, AFloodOfSynsTakesThePlacesAndNothingElse) {
  const ChannelHost host{path_};
  for (std::uint16_t i = 0; i < 1000; ++i) {
    TcpClient client = client_at(static_cast<std::uint16_t>(20'000 + i), i % 2 == 0 ? kChannel : kListening);
    say(client.resend());
    net_->serve_until([&] {
      (void)net_->take_received();
      return net_->take_transmitted() > 0;
    });
  }
  EXPECT_EQ(stack_->channels()->connection_count(), ChannelTable::kConnections);
  EXPECT_EQ(sockets_->taken_count(), ChannelTable::kConnections);
  EXPECT_EQ(metrics_.full_count.value(), 1000 - ChannelTable::kConnections);
  TcpClient metadata = client_at(50'000, 80);
  say(metadata.resend());
  serve_until(metadata, [&] { return metadata.open(); });
}

TEST_F(ChannelSocketsTest, ALoopThatClosesLeavesNothingBehind) {
  const ChannelHost host{path_};
  TcpClient client = client_at(40'000);
  OwnedFd socket = connect(client, host);
  TcpClient waiting = parked(40'001);
  say(client.send(numbers(1'000'000)));
  net_.reset();
  std::string rest(2'000'000, 0);
  while (::recv(socket.get(), rest.data(), rest.size(), MSG_DONTWAIT) > 0) {
  }
  EXPECT_EQ(::recv(socket.get(), rest.data(), rest.size(), MSG_DONTWAIT), 0);
}

}  // namespace
}  // namespace mayfly::testing
