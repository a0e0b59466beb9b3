// perf/run jailer: what a jail adds to a start, alone and a hundred at once, with no and with a hundred other machines
// there; and what the filters of system calls cost a drive.

#include "perf/bench_machine.h"
#include "perf/series.h"
#include "tests/support/child_process.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;
namespace fs = std::filesystem;

constexpr std::size_t kMany = 100;
constexpr unsigned kFirstUser = 61'234;  // each machine has its own

struct Paths {
  std::string monitor;
  std::string jailer;
  std::string empty;
  std::string guest;
  std::string image;
};

/// How a start begins: by the program itself, or by the jailer.
struct Kind {
  const char* name;
  bool jailed;
};
constexpr std::array kKinds = {Kind{"not jailed", false}, Kind{"jailed", true}};

/// Where a machine has its API, and what starts it. Made before it is timed, as a host makes a jail's folder before it.
class Place {
 public:
  Place(const Paths& paths, const ScratchDirectory& scratch, bool jailed, std::size_t number) {
    const std::string id = std::string{jailed ? "jailed-" : "plain-"} + std::to_string(number);
    folder_ = scratch.file(jailed ? "mayfly/" + id : id);
    const std::string root = jailed ? folder_ + "/root" : folder_;
    fs::create_directories(root);
    socket_ = root + "/api.sock";
    if (jailed) command_ = jail(paths, scratch, paths.monitor, id, number);
    const std::vector<std::string> own = {"--api-sock", jailed ? "/api.sock" : socket_, "--level", "Error"};
    if (!jailed) command_.push_back(paths.monitor);
    command_.insert(command_.end(), own.begin(), own.end());
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  static std::vector<std::string> jail(const Paths& paths, const ScratchDirectory& scratch,
                                       const std::string& exec_file, const std::string& id, std::size_t number) {
    const std::string user = std::to_string(kFirstUser + number);
    return {paths.jailer, "--id",  id,   "--exec-file",       exec_file,        "--uid",
            user,         "--gid", user, "--chroot-base-dir", scratch.file(""), "--"};
  }

  [[nodiscard]] const std::string& socket() const noexcept { return socket_; }
  [[nodiscard]] const std::vector<std::string>& command() const noexcept { return command_; }

 private:
  std::string folder_;
  std::string socket_;
  std::vector<std::string> command_;
};

/// Machines that were started at the same time; they end with this object.
class Started {
 public:
  Started(const Paths& paths, const ScratchDirectory& scratch, bool jailed, std::size_t first, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      places_.push_back(std::make_unique<Place>(paths, scratch, jailed, first + i));
      waiters_.push_back(std::make_unique<SocketWaiter>(places_.back()->socket()));
    }
    // Each is waited for on a thread of its own, which sleeps until there is a socket.
    std::vector<std::future<double>> answers;
    for (const auto& waiter : waiters_)
      answers.push_back(std::async(std::launch::async, answered_at, std::cref(*waiter)));
    const double begin = now_us();
    std::vector<double> begins;
    for (const auto& place : places_) {
      begins.push_back(now_us());
      processes_.push_back(
          std::make_unique<ChildProcess>(place->command(), ChildProcess::Streams{.in = -1, .out = -1, .err = 2}));
    }
    double last = begin;
    for (std::size_t i = 0; i < count; ++i) {
      const double end = answers[i].get();
      ready_ms_.push_back((end - begins[i]) / 1e3);
      last = std::max(last, end);
    }
    all_ms_ = (last - begin) / 1e3;
  }

  /// From each one's own start to its answer.
  [[nodiscard]] const std::vector<double>& ready_ms() const noexcept { return ready_ms_; }
  /// From the first one's start to the last one's answer.
  [[nodiscard]] double all_ms() const noexcept { return all_ms_; }

 private:
  static double answered_at(const SocketWaiter& waiter) {
    const OwnedFd connection = waiter.connect();
    must_exchange(connection.get(), "GET", "/", "");
    return now_us();
  }

  std::vector<std::unique_ptr<Place>> places_;
  std::vector<std::unique_ptr<SocketWaiter>> waiters_;
  std::vector<std::unique_ptr<ChildProcess>> processes_;  // after the places: these end first
  std::vector<double> ready_ms_;
  double all_ms_ = 0;
};

/// The jailer alone: what it executes ends at once.
double run_empty(const Paths& paths, const ScratchDirectory& scratch, bool jailed) {
  const std::vector<std::string> command =
      jailed ? Place::jail(paths, scratch, paths.empty, "empty", 0) : std::vector<std::string>{paths.empty};
  const double begin = now_us();
  ChildProcess process{command, {.in = -1, .out = -1, .err = STDERR_FILENO}};
  const int code = process.wait();
  const double ms = (now_us() - begin) / 1e3;
  if (code != 0) give_up("the empty program, or its jailer, ended with code " + std::to_string(code));
  fs::remove_all(scratch.file("empty"));
  return ms;
}

/// A series for each kind of start.
std::vector<Series> both(const std::string& what) {
  std::vector<Series> all;
  for (const Kind& kind : kKinds) all.emplace_back(what + ", " + kind.name);
  return all;
}
/// By how much the second is longer.
double added(const std::vector<Series>& pair) { return pair[1].median() - pair[0].median(); }

struct Starts {
  std::vector<Series> empty = both("empty program");
  std::vector<Series> alone = both("alone");
  std::vector<Series> beside = both("beside 100");
  std::vector<Series> at_once = both("of 100 at once");
  std::vector<Series> all = both("100 at once, elapsed");
};

Starts measure_starts(const Paths& paths, const ScratchDirectory& scratch, int rounds) {
  Starts starts;
  for (int round = 0; round < rounds; ++round)
    for (std::size_t i = 0; i < kKinds.size(); ++i) {
      std::fprintf(stderr, "\r\033[Kstarts, %s: round %d of %d", kKinds.at(i).name, round + 1, rounds);
      const bool jailed = kKinds.at(i).jailed;
      starts.empty[i].add(run_empty(paths, scratch, jailed));
      starts.alone[i].add(Started{paths, scratch, jailed, 0, 1}.ready_ms().front());
      const Started many{paths, scratch, jailed, 0, kMany};
      for (const double ms : many.ready_ms()) starts.at_once[i].add(ms);
      starts.all[i].add(many.all_ms());
      starts.beside[i].add(Started{paths, scratch, jailed, kMany, 1}.ready_ms().front());
    }
  std::fprintf(stderr, "\r\033[K");
  return starts;
}

void print(const Starts& starts) {
  print_table("start to exit", "ms", starts.empty);
  print_table("start to GET / answered", "ms", starts.alone);
  print_table("the same, other machines there", "ms", starts.beside);
  print_table("the same, at once", "ms", starts.at_once);
  print_table("all of them", "ms", starts.all);
  std::printf(
      "\na jail adds: %.2f ms to an empty program, %.2f ms to a start, %.2f ms beside %zu machines,\n"
      "             %.2f ms to a start of %zu at once (for each of them, %.2f ms until all are there)\n",
      added(starts.empty), added(starts.alone), added(starts.beside), kMany, added(starts.at_once), kMany,
      added(starts.all) / kMany);
}

struct Load {
  const char* name;
  unsigned depth;
  unsigned count;
};
constexpr std::array kLoads = {Load{"4 KiB random read, depth 1", 1, 60'000},
                               Load{"4 KiB random read, depth 32", 32, 400'000}};

/// The same monitor, by what it is told.
struct Filters {
  const char* name;
  std::vector<std::string> arguments;
};

double run_drive(const Paths& paths, const ScratchDirectory& scratch, const Load& load, const Filters& filters) {
  BenchMachine machine{
      scratch,
      {.monitor = paths.monitor,
       .guest = paths.guest,
       .boot_args = "size=4096 write=0 sequential=0 depth=" + std::to_string(load.depth) +
                    " count=" + std::to_string(load.count),
       .device_path = "/drives/disk",
       .device = R"({"drive_id": "disk", "is_root_device": false, "path_on_host": ")" + paths.image + "\"}",
       .arguments = filters.arguments}};
  return load.count / machine.finish().seconds / 1e3;
}

/// With filters over without, of the load that they cost the most.
double measure_drive(const Paths& paths, const ScratchDirectory& scratch, int rounds) {
  const std::array all = {Filters{"with filters", {}}, Filters{"without filters", {"--no-seccomp"}}};
  double least = 1e9;
  for (const Load& load : kLoads) {
    std::vector<Series> rates;
    for (const Filters& filters : all) rates.emplace_back(filters.name);
    for (int round = 0; round < rounds; ++round)
      for (std::size_t i = 0; i < all.size(); ++i) {
        std::fprintf(stderr, "\r\033[K%s: round %d of %d", load.name, round + 1, rounds);
        rates[i].add(run_drive(paths, scratch, load, all.at(i)));
      }
    std::fprintf(stderr, "\r\033[K");
    print_table(load.name, "1000/s", rates);
    const double ratio = rates[0].median() / rates[1].median();
    std::printf("ratio %.3f\n", ratio);
    least = std::min(least, ratio);
  }
  return least;
}

int run(const Paths& paths, int rounds) {
  if (::geteuid() != 0) give_up("jails need root");
  const ScratchDirectory scratch;
  const Starts starts = measure_starts(paths, scratch, rounds);
  print(starts);
  const double ratio = measure_drive(paths, scratch, rounds);
  std::printf("\nadded_ms=%.2f added_ms_at_100=%.2f block_ratio=%.3f\n", added(starts.alone), added(starts.at_once),
              ratio);
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(
      argc, argv, "MONITOR JAILER EMPTY-BINARY GUEST IMAGE", [](const auto& paths, int rounds) {
        return mayfly::perf::run({paths[0], paths[1], paths[2], paths[3], paths[4]}, rounds);
      });
}
