#include "runtime/guest.h"
#include "runtime/net_interface.h"
#include "runtime/tcp_client.h"

/// Speaks to the services inside its network interface, at 169.254.169.254, by commands of one byte on the serial port:
///
///   m    asks for /name of the metadata: "metadata: VALUE"
///   p    sends a frame to nobody that is there: "sent"
///   c    connects to the channel of the command line and sends back whatever comes from there: "channel open", and at
///        its end "channel done N", the number of bytes, or "channel reset"
///   q    passes
///
/// Words of the command line: channel=PORT; agent=1: without a command it keeps one connection to the channel on which
/// nothing was said yet, and sends back what comes on each. It prints "link ready" when it waits for the first one.
namespace {

using namespace guest;

/// The body of an answer of HTTP, and whether that is whole.
std::string_view body_of(std::string_view answer) {
  const std::size_t end = answer.find("\r\n\r\n");
  return end == std::string_view::npos ? std::string_view{} : answer.substr(end + 4);
}

void ask_metadata(TcpLink& link, TcpClient& client) {
  client.open(80);
  bool asked = false;
  const bool answered = wait_until([&] {
    client.push();
    link.poll(client);
    if (client.is_open() && !asked) {
      asked = true;
      client.send("GET /name HTTP/1.0\r\n\r\n");
    }
    return client.saw_end() || client.was_reset();
  });
  expect(answered, "the metadata service answers");
  print("metadata: ", body_of(client.received()), "\n");
  client.finish();
  expect(wait_until([&] {
           client.push();
           link.poll(client);
           return client.is_done() || client.was_reset();
         }),
         "the connection ends");
}

/// Sends back what comes, while other commands are served.
class Echo {
 public:
  Echo(TcpLink& link, std::uint16_t first_port) : client_(link, first_port) {}

  [[nodiscard]] TcpClient& client() { return client_; }
  [[nodiscard]] bool is_over() const { return over_; }
  /// Nothing has come yet.
  [[nodiscard]] bool is_idle() const { return !over_ && count_ == 0; }
  void open(std::uint16_t port) {
    client_.open(port);
    count_ = 0;
    said_open_ = false;
    over_ = false;
  }
  void go_on() {
    if (over_) return;
    if (client_.is_open()) {
      if (!said_open_) print("channel open\n");
      said_open_ = true;
      const std::uint32_t length = client_.send(client_.received());
      client_.consume(length);
      count_ += length;
      if (client_.saw_end() && client_.received().empty()) client_.finish();
    }
    client_.push();
    over_ = client_.was_reset() || client_.is_done();
    if (client_.was_reset())
      print("channel reset\n");
    else if (over_)
      print("channel done ", count_, "\n");
  }

 private:
  TcpClient client_;
  std::uint64_t count_ = 0;
  bool said_open_ = false;
  bool over_ = true;
};

/// Connections of which one waits for a host, until that has spoken.
class Agent {
 public:
  Agent(TcpLink& link, std::uint16_t port) : port_(port), echoes_{{{link, 51000}, {link, 52000}, {link, 53000}}} {}

  void take(const TcpArrival& arrival) {
    for (Echo& echo : echoes_) echo.client().take(arrival);
  }
  void go_on() {
    bool idle = false;
    for (Echo& echo : echoes_) {
      echo.go_on();
      idle = idle || echo.is_idle();
    }
    for (Echo& echo : echoes_) {
      if (idle || !echo.is_over()) continue;
      echo.open(port_);
      idle = true;
    }
  }

 private:
  std::uint16_t port_;
  std::array<Echo, 3> echoes_;
};

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  static TcpLink link{first_interface()};
  static TcpClient metadata{link, 40000};
  static Echo echo{link, 50000};
  const auto channel = static_cast<std::uint16_t>(boot.number("channel", 1024));
  static Agent agent{link, channel};
  const bool is_agent = boot.number("agent", 0) != 0;
  print("link ready\n");
  for (;;) {
    link.poll(metadata, echo.client(), agent);
    echo.go_on();
    if (is_agent) agent.go_on();
    if ((in8(serial::kLineStatus) & serial::kDataReady) == 0) {
      pause();
      continue;
    }
    switch (static_cast<char>(in8(serial::kData))) {
      case 'm':
        ask_metadata(link, metadata);
        break;
      case 'c':
        echo.open(channel);
        break;
      case 'p':
        link.send_to_nobody();
        print("sent\n");
        break;
      case 'q':
        pass();
      default:
        break;
    }
  }
}
