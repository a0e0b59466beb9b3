// perf/run live, its part in the lab: how long a Linux guest that answers lines stands still for a live snapshot, and what its
// slowest answer takes while its memory is written; beside the pause of a plain one. To be run where Linux guests run.

#include "perf/console_machine.h"
#include "perf/linux_guest.h"
#include "perf/series.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

constexpr const char* kTouch = "dd if=/dev/urandom of=/run/touched bs=1M count=96 2>/dev/null";

struct Measured {
  Series warm{"answer to a line"};
  Series slowest{"slowest meanwhile"};
  Series pause{"pause, live snapshot"};
  Series paused{"pause, plain snapshot"};
};

void take_live(const MayflyGuest& guest, const std::string& prefix) {
  guest.must("PUT", "/snapshot/create",
             R"({"live": true, "snapshot_path": )" + in_quotes(prefix + ".state") + R"(, "mem_file_path": )" +
                 in_quotes(prefix + ".mem") + "}");
}

void measure(MayflyGuest& guest, const std::string& prefix, Measured& measured) {
  for (unsigned i = 0; i < 20; ++i) measured.warm.add(guest.ask("word"));
  auto taken = std::async(std::launch::async, [&] { take_live(guest, prefix); });
  double slowest = 0;
  do slowest = std::max(slowest, guest.ask("word"));
  while (taken.wait_for(std::chrono::seconds{0}) != std::future_status::ready);
  taken.get();
  measured.slowest.add(slowest);
  measured.pause.add(guest.metrics().at("mayfly_latencies_us_live_snapshot_pause") / 1e3);
  const double begin = now_us();
  guest.save(prefix);
  guest.must("PATCH", "/vm", R"({"state": "Resumed"})");
  measured.paused.add((now_us() - begin) / 1e3);
}

int run(const std::vector<std::string>& monitors, const LinuxFiles& files, int rounds) {
  const ScratchDirectory scratch;
  const std::string prefix = std::filesystem::path{files.kernel}.parent_path() / "live";
  Measured measured;
  for (int round = 0; round < rounds; ++round) {
    MayflyGuest guest{
        scratch, monitors.front(), {}, {"--live-snapshots"}};  // anew: its large pages are in pieces later
    guest.boot(files, 1, "");
    guest.run(kTouch);
    measure(guest, prefix, measured);
    std::fprintf(stderr, "live: Linux, round %d of %d\n", round + 1, rounds);
  }
  print_table("Linux with 256 MiB, 96 of them touched", "ms",
              {measured.warm, measured.slowest, measured.pause, measured.paused});
  std::printf("lab_pause_ms=%.2f lab_slowest_answer_ms=%.1f lab_answer_ms=%.1f lab_plain_pause_ms=%.0f\n",
              measured.pause.median(), measured.slowest.median(), measured.warm.median(), measured.paused.median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) { return mayfly::perf::linux_benchmark_main(argc, argv, mayfly::perf::run); }
