#include "runtime/guest.h"
#include "runtime/net_interface.h"
#include "runtime/tcp_frame.h"

/// A network interface under load, for perf/run net: `count` frames are echoed, thrown away as they come, or sent.
/// Prints BENCH START when it is ready and BENCH END after the last; how long that took, the host measures.
/// Command line: echo=1, sink=1 or send=1; count=200000; size=1500 (of frames to be sent; above 1514 bytes they are
/// unsegmented TCP). buffer=4096 is the size of a receive buffer.
namespace {

using guest::NetInterface;

constexpr std::uint64_t kFrame = 0x60'0000;
constexpr std::uint32_t kLargestPlain = 1514;

/// Lays a frame of `size` bytes, and the header before it, at kFrame.
void make_frame(std::uint32_t size) {
  for (std::uint64_t i = 0; i < NetInterface::kHeaderSize + size; ++i)
    guest::memory_at<volatile std::uint8_t>(kFrame + i) = 0;
  const auto headers = guest::tcp_frame_headers(size, 1448);
  const bool plain = size <= kLargestPlain;
  // A plain frame is of a protocol that nobody takes (IEEE 802: local experimental), and has no more than addresses.
  const std::size_t end = plain ? NetInterface::kHeaderSize + 12 : headers.size();
  for (std::size_t i = plain ? NetInterface::kHeaderSize : 0; i < end; ++i)
    guest::memory_at<volatile std::uint8_t>(kFrame + i) = headers[i];
  if (!plain) return;
  guest::memory_at<volatile std::uint8_t>(kFrame + end) = 0x88;
  guest::memory_at<volatile std::uint8_t>(kFrame + end + 1) = 0xB5;
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const std::uint64_t count = boot.number("count", 200'000);
  const auto size = static_cast<std::uint32_t>(boot.number("size", 1500));
  expect(size >= 60 && size <= 65'535, "frames are of 60 to 65535 bytes");
  static std::optional<NetInterface> interface;
  interface.emplace(first_interface(),
                    NetInterface::Options{.unfinished = true,
                                          .buffer_size = static_cast<std::uint32_t>(boot.number("buffer", 4096))});
  make_frame(size);
  print("BENCH START\n");
  std::uint64_t done = 0;
  if (boot.has("send")) {
    for (std::uint64_t left = count; done < count; left = count - done - interface->sending())
      done += interface->send(kFrame, size, left);
  } else if (boot.has("echo")) {
    while (done < count) done += interface->echo();
    spin_for(10'000'000);  // the last one is on its way
  } else {
    while (done < count) done += interface->sink();
  }
  print("BENCH END\n");
  pass();
}
