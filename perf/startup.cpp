// perf/run startup: from exec to an answering API, beside an empty static binary; and from SIGTERM to the process gone.

#include "perf/series.h"
#include "tests/support/child_process.h"

#include <csignal>
#include <cstdio>
#include <string>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

struct Paths {
  std::string monitor;
  std::string empty;
  std::string spinning_guest;
};

double measure_empty(const Paths& paths) {
  const double begin = now_us();
  ChildProcess process{{paths.empty}, {}};
  process.wait();
  return (now_us() - begin) / 1e3;
}

struct Started {
  double ready_ms;
  double rss_mib;
};

Started measure_ready(const Paths& paths, const ScratchDirectory& scratch, int round) {
  const std::string socket = scratch.file("ready" + std::to_string(round));
  const SocketWaiter waiter{socket};
  const double begin = now_us();
  ChildProcess process{{paths.monitor, "--api-sock", socket, "--level", "Error"}, {}};
  const OwnedFd connection = waiter.connect();
  must_exchange(connection.get(), "GET", "/", "");
  const double ready = (now_us() - begin) / 1e3;
  const double rss = static_cast<double>(process.status_kib("VmRSS")) / 1024;
  process.signal(SIGTERM);
  process.wait();
  return {ready, rss};
}

/// A machine of 128 MiB that spins: SIGTERM to the process gone.
double measure_stop(const Paths& paths, const ScratchDirectory& scratch, int round) {
  const std::string socket = scratch.file("stop" + std::to_string(round));
  const SocketWaiter waiter{socket};
  ChildProcess process{{paths.monitor, "--api-sock", socket, "--level", "Error"}, {}};
  const OwnedFd connection = waiter.connect();
  must_exchange(connection.get(), "PUT", "/boot-source", R"({"kernel_image_path": ")" + paths.spinning_guest + "\"}");
  must_exchange(connection.get(), "PUT", "/actions", R"({"action_type": "InstanceStart"})");
  const double begin = now_us();
  process.signal(SIGTERM);
  const int code = process.wait();
  if (code != 128 + SIGTERM) give_up("the monitor ended with code " + std::to_string(code) + " on SIGTERM");
  return (now_us() - begin) / 1e3;
}

int run(const Paths& paths, int rounds) {
  const ScratchDirectory scratch;
  std::vector<Series> start = {Series{"mayfly: exec to GET / answered"}, Series{"floor: empty static binary"}};
  std::vector<Series> memory = {Series{"mayfly: resident when it answers"}};
  std::vector<Series> stop = {Series{"mayfly: SIGTERM to process gone"}};
  for (int round = 0; round < rounds; ++round) {
    const Started started = measure_ready(paths, scratch, round);
    start[0].add(started.ready_ms);
    memory[0].add(started.rss_mib);
    start[1].add(measure_empty(paths));
    stop[0].add(measure_stop(paths, scratch, round));
    std::fprintf(stderr, "\rround %d of %d", round + 1, rounds);
  }
  std::fprintf(stderr, "\r\033[K");
  print_table("start", "ms", start);
  print_table("memory", "MiB", memory);
  print_table("stop", "ms", stop);
  std::printf("\nstop: ms=%.2f\n", stop[0].median());
  std::printf("startup: ready_ms=%.2f floor_ms=%.2f rss_mib=%.2f\n", start[0].median(), start[1].median(),
              memory[0].median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(
      argc, argv, "MONITOR EMPTY-BINARY SPINNING-GUEST",
      [](const auto& paths, int rounds) { return mayfly::perf::run({paths[0], paths[1], paths[2]}, rounds); });
}
