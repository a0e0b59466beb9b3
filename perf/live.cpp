// perf/run live: how long a machine stands still for a live snapshot, how much slower its guest is while its memory is
// written, and how much memory that takes; beside the pause of a plain snapshot of the same machine. The guest writes to
// all of its memory, round after round (tests/guests/counter.cpp), which is the worst case. The files are in memory.

#include "perf/console_machine.h"
#include "perf/series.h"
#include "tests/support/child_process.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

constexpr const char* kMemoryFiles = "/dev/shm";
constexpr double kWindowMib = 8;  // what the memory holder and the worker share

double number_of(const std::string& text) { return std::strtod(text.c_str(), nullptr); }

/// The memory that only a monitor's child has: pages that the guest has copied since. In MiB, at most since begin.
class MostCopied {
 public:
  explicit MostCopied(pid_t monitor)
      : thread_([this, monitor](const std::stop_token& stop) {
          const std::string task =
              "/proc/" + std::to_string(monitor) + "/task/" + std::to_string(monitor) + "/children";
          while (!stop.stop_requested()) {
            std::ifstream children{task};
            if (std::string child; children >> child) most_ = std::max(most_.load(), of(child));
            ::usleep(2000);
          }
        }) {}
  double stop() {
    thread_.request_stop();
    thread_.join();
    return most_;
  }

 private:
  static double of(const std::string& child) {
    std::ifstream smaps{"/proc/" + child + "/smaps_rollup"};
    double kib = 0;
    for (std::string line; std::getline(smaps, line);)
      if (line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:")) kib += number_of(line.substr(14));
    return kib / 1024;
  }
  std::atomic<double> most_{0};
  std::jthread thread_;
};

class Machine {
 public:
  Machine(const std::string& monitor, const std::string& guest, unsigned mib, const char* pages)
      : scratch_(kMemoryFiles), machine_(monitor, scratch_.file("api"), {"--live-snapshots"}) {
    machine_.send(
        "PUT", "/machine-config",
        R"({"vcpu_count": 1, "mem_size_mib": )" + std::to_string(mib + 64) + R"(, "huge_pages": ")" + pages + "\"}");
    machine_.send("PUT", "/boot-source",
                  R"({"kernel_image_path": )" + in_quotes(guest) + R"(, "boot_args": "console=ttyS0 mib=)" +
                      std::to_string(mib) + "\"}");
    machine_.send("PUT", "/actions", R"({"action_type": "InstanceStart"})");
    machine_.await("counter ready");
  }

  struct Taken {
    double pause_ms;  ///< From the request until the machine goes on, as the monitor measures it.
    double write_ms;
    double slowdown;
    double extra_mib;
  };
  Taken take_live() {
    const double usual = rounds_a_ms(200);
    MostCopied copied{machine_.pid()};
    const double before = round();
    const double begin = now_us();
    create(R"(, "live": true)");
    const double taken = now_us();
    const double after = round();
    const double rate = (after - before) / (now_us() - begin) * 1e3;
    const std::string metrics = machine_.get("/metrics/prometheus");
    const std::string name = "\nmayfly_latencies_us_live_snapshot_pause ";
    return {number_of(metrics.substr(metrics.find(name) + name.size())) / 1e3, (taken - begin) / 1e3,
            usual / std::max(rate, 1e-9), copied.stop() + kWindowMib};
  }
  double take_paused_ms() {
    const double begin = now_us();
    machine_.send("PATCH", "/vm", R"({"state": "Paused"})");
    create("");
    machine_.send("PATCH", "/vm", R"({"state": "Resumed"})");
    return (now_us() - begin) / 1e3;
  }

 private:
  void create(const std::string& more) const {
    machine_.send("PUT", "/snapshot/create",
                  R"({"snapshot_path": )" + in_quotes(scratch_.file("state")) + R"(, "mem_file_path": )" +
                      in_quotes(scratch_.file("memory")) + more + "}");
  }
  double round() {
    machine_.type('t');
    machine_.await("round ");
    return number_of(machine_.rest_of_line());
  }
  double rounds_a_ms(double milliseconds) {
    const double first = round();
    const double begin = now_us();
    double last = first;
    while (now_us() - begin < milliseconds * 1e3) last = round();
    return (last - first) / (now_us() - begin) * 1e3;
  }

  ScratchDirectory scratch_;
  ConsoleMachine machine_;
};

struct Case {
  unsigned mib;
  const char* pages;
};

std::string name_of(const Case& each) {
  return std::to_string(each.mib) + " MiB, " + (std::string{each.pages} == "None" ? "4 KiB" : "2 MiB");
}

int run(const std::string& monitor, const std::string& guest, int rounds) {
  constexpr Case kCases[] = {{128, "Transparent"}, {1024, "Transparent"}, {128, "None"}, {1024, "None"}};
  std::vector<Series> pause, paused, write, slowdown, extra;
  for (const Case& each : kCases) {
    for (auto* const all : {&pause, &paused, &write, &slowdown, &extra}) all->emplace_back(name_of(each));
    for (int round = 0; round < rounds; ++round) {
      Machine machine{monitor, guest, each.mib, each.pages};  // anew: its large pages are in pieces afterwards
      paused.back().add(machine.take_paused_ms());
      const Machine::Taken taken = machine.take_live();
      pause.back().add(taken.pause_ms);
      write.back().add(taken.write_ms);
      slowdown.back().add(taken.slowdown);
      extra.back().add(taken.extra_mib);
      std::fprintf(stderr, "\r%s: round %d of %d", name_of(each).c_str(), round + 1, rounds);
    }
    std::fprintf(stderr, "\r\033[K");
  }
  print_table("the machine stands still for a live snapshot", "ms", pause);
  print_table("the same for a plain one, of a machine that is paused and resumed", "ms", paused);
  print_table("request for a live snapshot to its answer", "ms", write);
  print_table("how many times slower the guest writes everything meanwhile", "times", slowdown);
  print_table("more memory at most meanwhile", "MiB", extra);
  std::printf("\npause_ms=%.2f pause_1gib_ms=%.2f slowdown=%.1f extra_mib=%.0f\n", pause[0].median(), pause[1].median(),
              slowdown[0].median(), extra[0].median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR COUNTER", [](const auto& paths, int rounds) {
    return mayfly::perf::run(paths[0], paths[1], rounds);
  });
}
