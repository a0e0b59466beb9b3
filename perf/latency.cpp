// perf/run latency: how long one byte, one frame and one block take, warm, in a Linux guest that has nothing else to
// do; on an idle host, and beside programs that never wait; beside QEMU's microvm machine. To be run where Linux guests
// run: in the lab, or on hardware.

#include "perf/guest_counts.h"
#include "perf/linux_guest.h"
#include "perf/series.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

constexpr unsigned kLines = 20;
constexpr unsigned kPings = 500;
constexpr unsigned kReads = 4000;
constexpr unsigned kWrites = 2000;
/// What a host with so many others at work has of these: a part, since all take their share of the CPU.
constexpr unsigned kNeighbours = 8;
constexpr unsigned kBusyPart = 10;

/// Processes that never wait.
class Neighbours {
 public:
  Neighbours() {
    for (pid_t& neighbour : all_) {
      neighbour = ::fork();
      if (neighbour < 0) give_up("cannot start a neighbour");
      if (neighbour != 0) continue;
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) __asm__ volatile("");
    }
  }
  Neighbours(const Neighbours&) = delete;
  Neighbours& operator=(const Neighbours&) = delete;
  ~Neighbours() {
    for (const pid_t neighbour : all_) {
      ::kill(neighbour, SIGKILL);
      ::waitpid(neighbour, nullptr, 0);
    }
  }

 private:
  std::array<pid_t, kNeighbours> all_{};
};

std::string transfer(const char* from, const char* to, unsigned count) {
  return std::string{"dd bs=4k count="} + std::to_string(count) + " " + from + " " + to + " 2>/dev/null";
}

/// Milliseconds for `count` more requests than one.
double requests(LinuxGuest& guest, const char* from, const char* to, unsigned count) {
  guest.run(transfer(from, to, count));
  const double one = guest.run(transfer(from, to, 1));
  return guest.run(transfer(from, to, count + 1)) - one;
}

/// What is measured of each monitor.
struct Samples {
  explicit Samples(const std::string& name) : line(name), ping(name), http(name), read(name), write(name) {}
  Series line, ping, http, read, write;
};

/// `part`: of the requests.
void measure(LinuxGuest& guest, Samples& samples, unsigned part) {
  guest.ask("warm");
  for (unsigned i = 0; i < kLines; ++i) samples.line.add(guest.ask("line" + std::to_string(i)));
  samples.ping.add(LinuxGuest::ping(kPings / part) * 1e3);
  (void)LinuxGuest::get_page();
  for (unsigned i = 0; i < kLines; ++i) samples.http.add(LinuxGuest::get_page());
  const unsigned reads = kReads / part;
  const unsigned writes = kWrites / part;
  samples.read.add(requests(guest, "if=/dev/vdb iflag=direct", "of=/dev/null", reads) * 1e3 / reads);
  samples.write.add(requests(guest, "if=/dev/zero", "of=/dev/vdb oflag=direct", writes) * 1e3 / writes);
}

/// Of an idle host, and of a busy one.
struct Both {
  explicit Both(const std::string& name) : idle(name), busy(name + ", busy") {}
  Samples idle, busy;
};

void measure(LinuxGuest& guest, Both& both) {
  measure(guest, both.idle, 1);
  const Neighbours neighbours;
  measure(guest, both.busy, kBusyPart);
}

template <typename Request>
Counts count(MayflyGuest& guest, unsigned requests, const Request& request) {
  const Counts before = counts_of(guest);
  for (unsigned i = 0; i < requests; ++i) request();
  return (counts_of(guest) - before) / requests;
}

void print_counts(const char* what, const Counts& counts) {
  std::printf("%-30s %8.2f %8.2f %8.2f %8.2f\n", what, counts.exits, counts.mmio_exits, counts.interrupts,
              counts.switches);
}

/// What one of each costs.
struct AllCounts {
  Counts line, ping, page;
};

AllCounts count_all(MayflyGuest& guest) {
  return {.line = count(guest, kLines, [&] { guest.ask("line"); }),
          .ping = count(guest, kPings, [] { LinuxGuest::ping_once(); }),
          .page = count(guest, kLines, [] { (void)LinuxGuest::get_page(); })};
}

void print_counts(const std::string& monitor, const AllCounts& counts) {
  std::printf("\n%-30s %8s %8s %8s %8s   (of each)\n", monitor.c_str(), "exits", "by MMIO", "irqs", "switches");
  print_counts("a line", counts.line);
  print_counts("a ping", counts.ping);
  print_counts("a page", counts.page);
}

void print_last_line(const Both& mayfly, const Both& qemu, const Both& with_vhost, const Counts& counts) {
  std::printf(
      "latency: line_ms=%.2f ping_us=%.1f ping_qemu_us=%.1f ping_vhost_us=%.1f http_ms=%.2f read_us=%.1f "
      "read_qemu_us=%.1f write_us=%.1f write_qemu_us=%.1f exits_per_interrupt=%.2f",
      mayfly.idle.line.median(), mayfly.idle.ping.median(), qemu.idle.ping.median(), with_vhost.idle.ping.median(),
      mayfly.idle.http.median(), mayfly.idle.read.median(), qemu.idle.read.median(), mayfly.idle.write.median(),
      qemu.idle.write.median(), counts.mmio_exits / counts.interrupts);
  std::printf(" busy_line_ms=%.2f busy_ping_us=%.1f busy_ping_qemu_us=%.1f busy_read_us=%.1f busy_read_qemu_us=%.1f\n",
              mayfly.busy.line.median(), mayfly.busy.ping.median(), qemu.busy.ping.median(), mayfly.busy.read.median(),
              qemu.busy.read.median());
}

int run(const std::vector<std::string>& monitors, const LinuxFiles& files, int rounds) {
  const ScratchDirectory scratch;
  std::vector<Both> all;
  for (std::size_t i = 0; i < monitors.size(); ++i) all.emplace_back(i == 0 ? "mayfly" : monitors[i]);
  all.emplace_back("QEMU");
  all.emplace_back("QEMU, vhost");
  std::vector<AllCounts> counts;
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < monitors.size(); ++i) {
      MayflyGuest guest{scratch, monitors[i]};
      guest.boot(files, 1, "Transparent");
      measure(guest, all[i]);
      if (round + 1 == rounds) counts.push_back(count_all(guest));
    }
    for (const auto vhost : {QemuGuest::Vhost::Off, QemuGuest::Vhost::On}) {
      QemuGuest guest{files, 1, vhost};
      measure(guest, all[monitors.size() + (vhost == QemuGuest::Vhost::On ? 1 : 0)]);
    }
    std::fprintf(stderr, "latency: round %d of %d\n", round + 1, rounds);
  }
  const auto table = [&](const char* title, const char* unit, Series Samples::* which) {
    std::vector<Series> series;
    for (const Both& both : all) series.push_back(both.idle.*which);
    for (const Both& both : all) series.push_back(both.busy.*which);
    print_table(title, unit, series);
  };
  table("a line on the console, to its answer", "ms", &Samples::line);
  table("ping", "us", &Samples::ping);
  table("a page by HTTP, on a connection of its own", "ms", &Samples::http);
  table("a read of 4 KiB, one at a time", "us", &Samples::read);
  table("a write of 4 KiB, one at a time", "us", &Samples::write);
  for (std::size_t i = 0; i < monitors.size(); ++i) print_counts(monitors[i], counts[i]);
  print_last_line(all.front(), all[monitors.size()], all.back(), counts.front().ping);
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) { return mayfly::perf::linux_benchmark_main(argc, argv, mayfly::perf::run); }
