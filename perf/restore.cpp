// perf/run restore: from the load request to the guest's first instruction and to its first answer, at several sizes of
// memory, with its file in the page cache and not, beside the bare KVM ioctls on the same file.

#include "perf/frozen_guest.h"
#include "perf/series.h"
#include "tests/support/child_process.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

struct Paths {
  std::string monitor;
  std::string floor;
  std::string guest;  ///< tests/guests/restored.cpp
};

std::string in_quotes(const std::string& text) { return '"' + text + '"'; }

double number_after(const std::string& text, const std::string& key) {
  const std::size_t at = text.find(key);
  if (at == std::string::npos) give_up("no " + key + " in:\n" + text);
  return std::strtod(text.c_str() + at + key.size(), nullptr);
}

struct Restored {
  double first_ms;   ///< Load request to the guest's first instruction.
  double answer_ms;  ///< ... to its first byte on the console.
};

/// A monitor makes ready what any load needs once it has given its first answer; within this it is done.
constexpr timespec kPoolTime{.tv_sec = 0, .tv_nsec = 10'000'000};

/// The load follows the first answer at once, or comes to a monitor that waits for it, as those of a pool do.
Restored measure_monitor(const Paths& paths, const ScratchDirectory& scratch, const FrozenGuest& frozen, bool pooled) {
  static int round = 0;
  const std::string socket = scratch.file("restore" + std::to_string(round++));
  const SocketWaiter waiter{socket};
  Pipe console;
  Pipe log;
  ChildProcess process{{paths.monitor, "--api-sock", socket, "--boot-timer", "--start-time-us", "1"},
                       {.out = console.write.get(), .err = log.write.get()}};
  console.write.reset();
  log.write.reset();
  const OwnedFd connection = waiter.connect();
  must_exchange(connection.get(), "GET", "/", "");
  const std::string body = R"({"snapshot_path": )" + in_quotes(frozen.state()) +
                           R"(, "resume_vm": true, "mem_backend": {"backend_type": "File", "backend_path": )" +
                           in_quotes(frozen.memory()) + "}}";
  if (pooled) ::nanosleep(&kPoolTime, nullptr);
  const double begin = now_us();
  must_exchange(connection.get(), "PUT", "/snapshot/load", body);
  std::string text;
  read_until(console.read.get(), text, "A");
  const double answered = now_us();
  std::string lines;
  read_until(log.read.get(), lines, "");
  if (process.wait() != 0) give_up("the guest did not reset:\n" + lines);
  return {(number_after(lines, "Guest-boot-time = ") + 1 - begin) / 1e3, (answered - begin) / 1e3};
}

double measure_floor(const Paths& paths, const FrozenGuest& frozen) {
  Pipe out;
  ChildProcess process{{paths.floor, "restore", frozen.memory(), std::to_string(frozen.size_mib())},
                       {.out = out.write.get(), .err = STDERR_FILENO}};
  out.write.reset();
  std::string text;
  read_until(out.read.get(), text, "");
  if (process.wait() != 0) give_up("the floor program failed");
  return number_after(text, "first_us=") / 1e3;
}

int run(const Paths& paths, int rounds) {
  const ScratchDirectory scratch;
  std::vector<FrozenGuest> sizes;
  for (const unsigned mib : {128U, 1024U, 4096U})
    sizes.emplace_back(scratch, FrozenGuest::Options{.monitor = paths.monitor, .guest = paths.guest, .size_mib = mib});
  std::vector<Series> first;
  std::vector<Series> answer;
  std::vector<Series> at_once;
  std::vector<Series> floor;
  for (const char* cache : {"cached", "cold"})
    for (const FrozenGuest& size : sizes) {
      const std::string name = std::to_string(size.size_mib()) + " MiB, " + cache;
      first.emplace_back("mayfly: " + name);
      answer.emplace_back("mayfly: " + name);
      at_once.emplace_back("mayfly: " + name);
      floor.emplace_back("floor: " + name);
    }
  // All that is cached before anything is cold: what one restore has dropped, another would read again.
  for (const FrozenGuest& size : sizes) measure_monitor(paths, scratch, size, true);
  for (const bool cold : {false, true})
    for (int round = 0; round < rounds; ++round) {
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        const std::size_t at = i + (cold ? sizes.size() : 0);
        if (cold) sizes[i].cool();
        const Restored restored = measure_monitor(paths, scratch, sizes[i], true);
        first[at].add(restored.first_ms);
        answer[at].add(restored.answer_ms);
        if (cold) sizes[i].cool();
        at_once[at].add(measure_monitor(paths, scratch, sizes[i], false).first_ms);
        if (cold) sizes[i].cool();
        floor[at].add(measure_floor(paths, sizes[i]));
      }
      std::fprintf(stderr, "\r%s: round %d of %d", cold ? "cold" : "cached", round + 1, rounds);
    }
  std::fprintf(stderr, "\r\033[K");
  print_table("load request to first instruction, by a monitor that waits for it", "ms", first);
  print_table("load request to first instruction, right after the monitor's first answer", "ms", at_once);
  print_table("load request to the guest's first byte on the console", "ms", answer);
  print_table("bare ioctls to first instruction", "ms", floor);
  std::printf("\nms=%.3f floor_ms=%.3f ms_4gib=%.3f floor_ms_4gib=%.3f at_once_ms=%.3f at_once_ms_4gib=%.3f\n",
              first[0].median(), floor[0].median(), first[2].median(), floor[2].median(), at_once[0].median(),
              at_once[2].median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR FLOOR GUEST", [](const auto& paths, int rounds) {
    return mayfly::perf::run({paths[0], paths[1], paths[2]}, rounds);
  });
}
