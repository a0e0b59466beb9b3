// perf/run revert: from the request to take a machine back to its snapshot to the answer, by what its guest has dirtied
// since, beside loads of the same snapshot; and how many times a second a guest on one CPU goes back and answers.

#include "perf/console_machine.h"
#include "perf/series.h"
#include "tests/support/child_process.h"

#include <sched.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

/// tests/guests/survivor.cpp changes every third page of its memory in a round: each is a stretch of its own.
/// tests/guests/toucher.cpp fills stretches.
enum class Dirties { Nothing, Stretches, Pages };
struct Case {
  const char* name;
  Dirties dirties;
  unsigned mib;
};
constexpr std::array kCases = {
    Case{"nothing", Dirties::Nothing, 0},
    Case{"1 MiB in one stretch", Dirties::Stretches, 1},
    Case{"8 MiB in one stretch", Dirties::Stretches, 8},
    Case{"32 MiB in one stretch", Dirties::Stretches, 32},
    Case{"1 MiB in 256 single pages", Dirties::Pages, 1},
    Case{"8 MiB in 2048 single pages", Dirties::Pages, 8},
};
constexpr std::size_t kOneMib = 1;
constexpr std::size_t kOneMibInPages = 4;

struct Paths {
  std::string monitor;
  std::string survivor;
  std::string toucher;
};

/// A snapshot of 128 MiB whose guest is about to dirty as much as a case says; and machines of it.
class Dirtier {
 public:
  Dirtier(const Paths& paths, const Case& of) : monitor_(paths.monitor), of_(of) {
    const bool pages = of.dirties == Dirties::Pages;
    ConsoleMachine machine{monitor_, socket()};
    machine.send("PUT", "/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 128})");
    const std::string words =
        pages ? "dirty_mib=" + std::to_string(3 * of.mib) : "span_mib=8 pages=100 more_mib=" + std::to_string(of.mib);
    machine.send("PUT", "/boot-source",
                 R"({"kernel_image_path": )" + in_quotes(pages ? paths.survivor : paths.toucher) +
                     R"(, "boot_args": "console=ttyS0 )" + words + "\"}");
    machine.send("PUT", "/actions", R"({"action_type": "InstanceStart"})");
    machine.await("ready\n");
    machine.send("PATCH", "/vm", R"({"state": "Paused"})");
    machine.send("PUT", "/snapshot/create",
                 R"({"snapshot_path": )" + in_quotes(state()) + R"(, "mem_file_path": )" + in_quotes(memory()) + "}");
    load();
  }

  /// Milliseconds from the request to its answer.
  double load() {
    machine_.emplace(monitor_, socket());
    const std::string body = R"({"snapshot_path": )" + in_quotes(state()) + R"(, "mem_file_path": )" +
                             in_quotes(memory()) + R"(, "resume_vm": true, "revertible": true})";
    const double begin = now_us();
    machine_->send("PUT", "/snapshot/load", body);
    const double ms = (now_us() - begin) / 1e3;
    set_state("Paused");
    return ms;
  }
  /// Machines that are not measured are paused: their guests poll.
  void set_state(const std::string& state) const { machine_->send("PATCH", "/vm", R"({"state": ")" + state + "\"}"); }
  void dirty() {
    set_state("Resumed");
    if (of_.dirties == Dirties::Nothing) return;
    const bool pages = of_.dirties == Dirties::Pages;
    machine_->type(pages ? 'r' : 'f');
    machine_->await(pages ? "round 1 ok\n" : "filled\n");
  }
  double revert() {
    const double begin = now_us();
    machine_->send("PUT", "/snapshot/revert", R"({"resume_vm": true})");
    return (now_us() - begin) / 1e3;
  }

 private:
  [[nodiscard]] std::string state() const { return scratch_.file("state"); }
  [[nodiscard]] std::string memory() const { return scratch_.file("memory"); }
  std::string socket() { return scratch_.file("api" + std::to_string(sockets_++)); }

  std::string monitor_;
  Case of_;
  ScratchDirectory scratch_;
  unsigned sockets_ = 0;
  std::optional<ConsoleMachine> machine_;
};

/// This process, and those that it makes from now on.
void stay_on_one_cpu() {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(0, &one);
  if (::sched_setaffinity(0, sizeof one, &one) != 0) give_up("cannot stay on CPU 0");
}

/// Of a client, a monitor and a guest that share one CPU.
double reverts_a_second(const Paths& paths, int rounds) {
  stay_on_one_cpu();
  Dirtier machine{paths, kCases[kOneMib]};
  const int count = 50 * rounds;
  const double begin = now_us();
  for (int i = 0; i < count; ++i) machine.revert();
  return count / ((now_us() - begin) / 1e6);
}

int run(const Paths& paths, int rounds) {
  std::deque<Dirtier> machines;  // which do not move
  std::vector<Series> reverts;
  for (const Case& each : kCases) {
    machines.emplace_back(paths, each);
    reverts.emplace_back(each.name);
  }
  Series loads{"a load, by a process that stands ready"};
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < kCases.size(); ++i)
      for (int again = 0; again < 5; ++again) {
        machines[i].dirty();
        reverts[i].add(machines[i].revert());
        machines[i].set_state("Paused");
      }
    loads.add(machines[kOneMib].load());
    std::fprintf(stderr, "\rround %d of %d", round + 1, rounds);
  }
  std::fprintf(stderr, "\r\033[K");
  print_table("request to take 128 MiB back to the answer, by what was dirtied", "ms", reverts);
  print_table("request to load the same to the answer", "ms", {loads});
  machines.clear();
  const double per_s = reverts_a_second(paths, rounds);
  std::printf("\nclient, monitor and guest on one CPU: %.0f reverts a second\n", per_s);
  std::printf("\nms=%.3f ms_pages=%.3f load_ms=%.3f per_s=%.0f\n", reverts[kOneMib].median(),
              reverts[kOneMibInPages].median(), loads.median(), per_s);
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR SURVIVOR TOUCHER", [](const auto& paths, int rounds) {
    return mayfly::perf::run({paths[0], paths[1], paths[2]}, rounds);
  });
}
