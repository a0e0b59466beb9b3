#include "runtime/guest.h"
#include "runtime/net_interface.h"
#include "runtime/tcp_client.h"

/// Speaks to the services inside its network interface, at 169.254.169.254, by commands of one byte on the serial port:
///
///   m    asks for /name of the metadata: "metadata: VALUE"
///   p    sends a frame to nobody that is there: "sent"
///   q    passes
///
/// It prints "link ready" when it waits for the first one.
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

}  // namespace

void guest::guest_main(const BootInfo&) {
  static TcpLink link{first_interface()};
  static TcpClient metadata{link, 40000};
  print("link ready\n");
  for (;;) {
    link.poll(metadata);
    if ((in8(serial::kLineStatus) & serial::kDataReady) == 0) {
      pause();
      continue;
    }
    switch (static_cast<char>(in8(serial::kData))) {
      case 'm':
        ask_metadata(link, metadata);
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
