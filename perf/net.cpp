// perf/run net, on this machine's /dev/kvm: a bare-metal guest at one end of a TAP and this program at the other, in a
// network namespace of its own. Frames there and back (latency), to the guest, and from it (packets and bytes a
// second); and the host's system calls a frame.

#include "perf/bench_machine.h"
#include "perf/series.h"
#include "tests/guests/runtime/tcp_frame.h"
#include "tests/support/tap_network.h"

#include <linux/if_packet.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

struct Paths {
  std::string monitor;
  std::string guest;
};

/// IEEE 802: local experimental, a protocol that nobody takes but we.
constexpr std::uint16_t kProtocol = 0x88B5;
constexpr std::uint16_t kIp = 0x0800;
/// A packet socket's header (PACKET_VNET_HDR) is one without the number of buffers.
constexpr std::size_t kSocketHeader = 10;
constexpr std::size_t kAddresses = 12;
constexpr std::size_t kLargestPlain = 1514;
constexpr unsigned kEchoes = 20'000;

/// A frame as the packet socket takes it: what the guest makes (tests/guests/net_bench.cpp) in the other direction.
Frame frame_of(std::size_t size) {
  Frame frame(kSocketHeader + size);
  const auto headers = guest::tcp_frame_headers(size, 1448);
  const bool plain = size <= kLargestPlain;
  const auto ethernet = headers.begin() + guest::kVirtioHeader;
  std::copy(ethernet, plain ? ethernet + kAddresses : headers.end(), frame.begin() + kSocketHeader);
  if (plain) {
    frame[kSocketHeader + kAddresses] = kProtocol >> 8;
    frame[kSocketHeader + kAddresses + 1] = kProtocol & 0xFF;
  } else {
    std::copy_n(headers.begin(), kSocketHeader, frame.begin());
  }
  return frame;
}

/// This program's end of the TAP: hands frames to it without a queueing discipline between.
class HostEnd {
 public:
  explicit HostEnd(TapInterface& tap) : fd_(tap.packets()) {
    set(SOL_PACKET, PACKET_VNET_HDR, 1);
    set(SOL_PACKET, PACKET_QDISC_BYPASS, 1);
    set(SOL_SOCKET, SO_RCVTIMEO, timeval{.tv_sec = 20, .tv_usec = 0});
  }

  /// Sends `frame` as often as the TAP takes it, until `enough`.
  void pump(const Frame& frame, bool unsegmented, const std::atomic<bool>& enough) const {
    constexpr std::size_t kBatch = 32;
    iovec piece{.iov_base = const_cast<std::uint8_t*>(frame.data()), .iov_len = frame.size()};
    sockaddr_ll to = address_;
    to.sll_protocol = unsegmented ? big_endian(kIp) : big_endian(kProtocol);
    std::array<mmsghdr, kBatch> batch{};
    for (mmsghdr& message : batch) {
      message.msg_hdr.msg_iov = &piece;
      message.msg_hdr.msg_iovlen = 1;
      message.msg_hdr.msg_name = &to;
      message.msg_hdr.msg_namelen = sizeof to;
    }
    while (!enough.load(std::memory_order_relaxed)) {
      // Fewer: its queue is full, and the monitor's turn; or the monitor has ended.
      if (::sendmmsg(fd_, batch.data(), kBatch, 0) < static_cast<int>(kBatch)) ::sched_yield();
    }
  }

  /// Sends `frame` and waits for its echo; microseconds.
  double round_trip(const Frame& frame) {
    const double begin = now_us();
    if (::send(fd_, frame.data(), frame.size(), 0) != static_cast<ssize_t>(frame.size()))
      give_up(std::string{"cannot send: "} + std::strerror(errno));
    if (::recv(fd_, answer_.data(), answer_.size(), 0) < 0) give_up("the guest echoes nothing");
    return now_us() - begin;
  }

 private:
  static std::uint16_t big_endian(std::uint16_t value) { return __builtin_bswap16(value); }
  template <typename Value>
  void set(int level, int option, const Value& value) const {
    if (::setsockopt(fd_, level, option, &value, sizeof value) != 0)
      give_up(std::string{"cannot set a packet socket up: "} + std::strerror(errno));
  }

  int fd_;
  sockaddr_ll address_ = bound_address(fd_);
  std::array<std::uint8_t, 2048> answer_{};

  static sockaddr_ll bound_address(int fd) {
    sockaddr_ll address{};
    socklen_t length = sizeof address;
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) give_up("no address of a socket");
    address.sll_halen = 6;
    return address;
  }
};

enum class Direction { ToGuest, FromGuest };

struct Load {
  const char* name;
  Direction direction;
  unsigned size;
  unsigned count;
};

constexpr std::array kLoads = {
    Load{"60 bytes to the guest", Direction::ToGuest, 60, 400'000},
    Load{"1500 bytes to the guest", Direction::ToGuest, 1500, 400'000},
    Load{"65535 bytes to the guest", Direction::ToGuest, 65'535, 60'000},
    Load{"60 bytes from the guest", Direction::FromGuest, 60, 400'000},
    Load{"1500 bytes from the guest", Direction::FromGuest, 1500, 400'000},
    Load{"65535 bytes from the guest", Direction::FromGuest, 65'535, 60'000},
};
constexpr unsigned kGsoSize = 65'535;

class Bench {
 public:
  Bench(Paths paths, const ScratchDirectory& scratch) : paths_(std::move(paths)), scratch_(scratch) {}

  BenchCost run(const Load& load, unsigned count, const std::vector<std::string>& launcher) {
    const bool to_guest = load.direction == Direction::ToGuest;
    BenchMachine machine =
        boot((to_guest ? "sink=1 size=" : "send=1 size=") + std::to_string(load.size), count, launcher);
    std::atomic<bool> enough{false};
    // The namespace is this thread's; one that it starts is in it, too.
    std::jthread pump;
    if (to_guest) pump = std::jthread{[&] { host_.pump(frame_of(load.size), load.size > kLargestPlain, enough); }};
    const StopAtEnd stop{enough};
    return machine.finish();
  }

  /// Microseconds there and back, of frames one at a time.
  void echo(Series& round_trips) {
    BenchMachine machine = boot("echo=1", kEchoes, {});
    const Frame frame = frame_of(60);
    for (unsigned i = 0; i < kEchoes; ++i) round_trips.add(host_.round_trip(frame));
    machine.finish();
  }

 private:
  struct StopAtEnd {
    std::atomic<bool>& enough;
    ~StopAtEnd() { enough = true; }
  };

  [[nodiscard]] BenchMachine boot(const std::string& what, unsigned count,
                                  const std::vector<std::string>& launcher) const {
    return BenchMachine{scratch_,
                        {.monitor = paths_.monitor,
                         .guest = paths_.guest,
                         .boot_args = what + " count=" + std::to_string(count),
                         .device_path = "/network-interfaces/eth0",
                         .device = R"({"iface_id": "eth0", "host_dev_name": ")" + tap_.name() + "\"}",
                         .launcher = launcher}};
  }

  Paths paths_;
  const ScratchDirectory& scratch_;
  TapInterface tap_{"tap0", 1500, kProtocol};
  HostEnd host_{tap_};
};

int run(const Paths& paths, int rounds) {
  if (const auto why = enter_fresh_network()) give_up(*why);
  const ScratchDirectory scratch;
  Bench bench{paths, scratch};
  std::vector<Series> round_trips = {Series{"mayfly"}};
  for (int round = 0; round < rounds; ++round) bench.echo(round_trips[0]);
  print_table("60 bytes there and back", "us", round_trips);
  std::printf("median %.1f us, 99 %% below %.1f us\n\n", round_trips[0].median(), round_trips[0].quantile(0.99));

  double most_calls = 0;
  double gbps = 0;
  for (const Load& load : kLoads) {
    std::vector<Series> rates = {Series{"mayfly"}};
    std::vector<Series> cpu = {Series{"mayfly, polling guest included"}, Series{"mayfly's loop alone"}};
    for (int round = 0; round < rounds; ++round) {
      std::fprintf(stderr, "\r\033[K%s: round %d of %d", load.name, round + 1, rounds);
      const BenchCost cost = bench.run(load, load.count, {});
      rates[0].add(load.count / cost.seconds / 1e3);
      cpu[0].add(cost.cpu_us / load.count);
      cpu[1].add(cost.loop_cpu_us / load.count);
    }
    std::fprintf(stderr, "\r\033[K");
    std::printf("%s\n", load.name);
    print_table("rate", "1000/s", rates);
    print_table("CPU time a frame", "us", cpu);
    const unsigned step = load.size == kGsoSize ? 4'000 : 20'000;
    const Series all_calls =
        system_calls_each(scratch, {.shorter = step, .longer = 4 * step}, rounds,
                          [&](unsigned count, const auto& launcher) { (void)bench.run(load, count, launcher); });
    print_table("system calls", "1/frame", {all_calls});
    const double calls = all_calls.median();
    const double rate = rates[0].median() * 1e3 * load.size * 8 / 1e9;
    std::printf("%.2f Gbit/s, %.3f system calls a frame\n\n", rate, calls);
    // One that is to be cut to segments is many packets.
    if (load.size <= kLargestPlain) most_calls = std::max(most_calls, calls);
    if (load.size == kGsoSize) gbps = gbps == 0 ? rate : std::min(gbps, rate);
  }
  std::printf("syscalls_per_packet=%.2f gbps=%.1f\n", most_calls, gbps);
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR GUEST", [](const auto& paths, int rounds) {
    return mayfly::perf::run({paths[0], paths[1]}, rounds);
  });
}
