// perf/run clones: 1 to 1000 clones of one snapshot alive at once, every one of which has shown that it runs; beside as
// many processes that make the same VM by bare KVM ioctls.

#include "perf/frozen_guest.h"
#include "perf/series.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <list>
#include <map>
#include <string>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

struct Paths {
  std::string monitor;
  std::string floor;
  std::string guest;  ///< tests/guests/restored.cpp
};

constexpr std::array kCounts = {1U, 10U, 100U, 1000U};
constexpr double kDeadlineUs = 120e6;

/// "Name: N kB" lines of a file of /proc; empty where its process has ended.
std::map<std::string, double> kib_of(const std::string& path) {
  std::ifstream file{path};
  std::map<std::string, double> all;
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (colon != std::string::npos) all[line.substr(0, colon)] = std::strtod(line.c_str() + colon + 1, nullptr);
  }
  return all;
}

/// The host's memory, in KiB.
struct HostMemory {
  double available = 0;
  double slab = 0;
  double tables = 0;   ///< Page tables, the guests' included.
  double vmalloc = 0;  ///< Large objects, and the stacks of threads.
  double percpu = 0;
  /// The kernel's own. Unlike `available`, it does not follow what other programs allocate meanwhile.
  [[nodiscard]] double kernel() const { return slab + tables + vmalloc + percpu; }
};

HostMemory host_memory() {
  auto all = kib_of("/proc/meminfo");
  return {.available = all["MemAvailable"],
          .slab = all["Slab"],
          .tables = all["PageTables"] + all["SecPageTables"],
          .vmalloc = all["VmallocUsed"],
          .percpu = all["Percpu"]};
}

/// What ended before us gives its memory back for some time: waits until that has come to rest, or a few seconds.
HostMemory settled_host_memory() {
  constexpr double kAtRestKib = 512;
  HostMemory before = host_memory();
  for (int i = 0; i < 50; ++i) {
    const timespec pause{.tv_sec = 0, .tv_nsec = 200'000'000};
    ::nanosleep(&pause, nullptr);
    const HostMemory now = host_memory();
    const bool rests = std::abs(now.kernel() - before.kernel()) < kAtRestKib;
    before = now;
    if (rests) break;
  }
  return before;
}

/// Many processes, each of which says something when it runs, and goes on living.
class Herd {
 public:
  Herd() : events_(::epoll_create1(EPOLL_CLOEXEC)) {}

  /// Starts `count` of them as fast as one thread can, and waits until each has spoken or ended.
  void start(const std::vector<std::string>& command, unsigned count) {
    const double begin = now_us();
    for (unsigned i = 0; i < count; ++i) {
      add(command);
      look(0);
    }
    while (silent_ > 0) {
      if (now_us() - begin > kDeadlineUs) give_up(std::to_string(silent_) + " said nothing within the deadline");
      look(1000);
    }
    all_s_ = (now_us() - begin) / 1e6;
  }
  /// Ends them; quick, since none waits for another's end.
  void end() {
    stay_.write.reset();
    for (Member& member : members_) member.process.signal(SIGKILL);
    members_.clear();
  }

  [[nodiscard]] double all_s() const { return all_s_; }
  /// From its start to its word, of each.
  [[nodiscard]] const Series& each_ms() const { return each_ms_; }
  /// Sums over those that still live, in KiB; `alive` says how many these are.
  [[nodiscard]] std::map<std::string, double> memory(unsigned& alive) const {
    std::map<std::string, double> sums;
    alive = 0;
    for (const Member& member : members_) {
      if (!member.spoke) continue;
      const auto one = kib_of("/proc/" + std::to_string(member.process.pid()) + "/smaps_rollup");
      if (one.empty()) continue;
      ++alive;
      for (const auto& [name, kib] : one) sums[name] += kib;
    }
    return sums;
  }

 private:
  struct Member {
    double begin_us = now_us();
    Pipe words;
    ChildProcess process;
    bool spoke = false;
    Member(const std::vector<std::string>& command, int in)
        : process(command, {.in = in, .out = words.write.get(), .err = STDERR_FILENO}) {
      words.write.reset();
    }
  };

  void add(const std::vector<std::string>& command) {
    Member& member = members_.emplace_back(command, stay_.read.get());
    epoll_event event{.events = EPOLLIN, .data = {.ptr = &member}};
    if (::epoll_ctl(events_.get(), EPOLL_CTL_ADD, member.words.read.get(), &event) != 0)
      give_up("cannot watch a clone");
    ++silent_;
  }
  /// Takes note of those that have spoken or ended.
  void look(int timeout_ms) {
    std::array<epoll_event, 64> events{};
    const int count = ::epoll_wait(events_.get(), events.data(), events.size(), timeout_ms);
    const double now = now_us();
    for (int i = 0; i < count; ++i) {
      Member& member = *static_cast<Member*>(events.at(static_cast<std::size_t>(i)).data.ptr);
      char word = 0;
      member.spoke = ::read(member.words.read.get(), &word, 1) == 1 && word == 'A';
      if (member.spoke) each_ms_.add((now - member.begin_us) / 1e3);
      (void)::epoll_ctl(events_.get(), EPOLL_CTL_DEL, member.words.read.get(), nullptr);
      --silent_;
    }
  }

  Pipe stay_;  // their input, which ends when they shall
  OwnedFd events_;
  std::list<Member> members_;
  unsigned silent_ = 0;
  double all_s_ = 0;
  Series each_ms_{""};
};

/// Of one run; memory in MiB for each member.
struct Cost {
  unsigned alive = 0;
  unsigned failed = 0;
  double all_s = 0;
  double each_ms = 0;
  double own = 0;        ///< Pages that no other process has.
  double kernel = 0;     ///< The kernel's own memory: of that,
  double slab = 0;       ///< small objects,
  double tables = 0;     ///< page tables
  double vmalloc = 0;    ///< and large objects.
  double share = 0;      ///< The proportional share of all its pages.
  double shared = 0;     ///< Pages that others have as well.
  double available = 0;  ///< By how much less the host says to have available, whoever took it.
  /// What it costs the host.
  [[nodiscard]] double host() const { return own + kernel; }
};

Cost measure(const std::vector<std::string>& command, unsigned count) {
  const HostMemory before = settled_host_memory();
  Herd herd;
  herd.start(command, count);
  const HostMemory after = host_memory();
  Cost cost{.all_s = herd.all_s(), .each_ms = herd.each_ms().median()};
  auto memory = herd.memory(cost.alive);
  cost.failed = count - cost.alive;
  const auto each = [&](double kib) { return kib / 1024 / count; };
  cost.own = each(memory["Private_Dirty"] + memory["Private_Clean"]);
  cost.kernel = each(after.kernel() - before.kernel());
  cost.slab = each(after.slab - before.slab);
  cost.tables = each(after.tables - before.tables);
  cost.vmalloc = each(after.vmalloc - before.vmalloc);
  cost.share = each(memory["Pss"]);
  cost.shared = each(memory["Shared_Dirty"] + memory["Shared_Clean"]);
  cost.available = each(before.available - after.available);
  herd.end();
  return cost;
}

/// What is compared, at one number of machines.
struct Rows {
  std::string name;
  std::vector<std::string> command;
  unsigned count;
  Series all_s;
  Series each_ms;
  Series host_mib;
  Cost last;

  Rows(const std::string& who, std::vector<std::string> words, unsigned machines)
      : name(who + ": " + std::to_string(machines)),
        command(std::move(words)),
        count(machines),
        all_s(name),
        each_ms(name),
        host_mib(name),
        last() {}
};

void print_costs(const std::vector<Rows>& all) {
  std::printf("\nMiB each, in the last round\n%-16s %6s %6s %7s %7s %7s %7s %7s %7s %7s %9s\n", "", "alive", "failed",
              "own", "kernel", "slab", "tables", "vmalloc", "Pss", "shared", "available");
  for (const Rows& rows : all) {
    const Cost& cost = rows.last;
    std::printf("%-16s %6u %6u %7.3f %7.3f %7.3f %7.3f %7.3f %7.3f %7.3f %9.3f\n", rows.name.c_str(), cost.alive,
                cost.failed, cost.own, cost.kernel, cost.slab, cost.tables, cost.vmalloc, cost.share, cost.shared,
                cost.available);
  }
}

void print_series(const char* title, const char* unit, const std::vector<Rows>& all, Series Rows::* which) {
  std::vector<Series> series;
  series.reserve(all.size());
  for (const Rows& rows : all) series.push_back(rows.*which);
  print_table(title, unit, series);
}

/// A thousand of them need some thousand descriptors here.
void allow_many_descriptors() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

int run(const Paths& paths, int rounds) {
  allow_many_descriptors();
  const ScratchDirectory scratch;
  const FrozenGuest frozen{scratch, {.monitor = paths.monitor, .guest = paths.guest, .then = FrozenGuest::Then::Halt}};
  std::vector<Rows> all;
  for (const unsigned count : kCounts) {
    all.emplace_back(
        "mayfly",
        std::vector<std::string>{paths.monitor, "restore", "--state", frozen.state(), "--memory", frozen.memory()},
        count);
    all.emplace_back(
        "floor",
        std::vector<std::string>{paths.floor, "restore", frozen.memory(), std::to_string(frozen.size_mib()), "stay"},
        count);
  }
  unsigned failed = 0;  // clones, of all rounds
  for (int round = 0; round < rounds; ++round)
    for (Rows& rows : all) {
      std::fprintf(stderr, "\r\033[K%s: round %d of %d", rows.name.c_str(), round + 1, rounds);
      rows.last = measure(rows.command, rows.count);
      rows.all_s.add(rows.last.all_s);
      rows.each_ms.add(rows.last.each_ms);
      rows.host_mib.add(rows.last.host());
      if (rows.command.front() == paths.monitor)
        failed += rows.last.failed;
      else if (rows.last.failed > 0)
        give_up("the floor program failed");
    }
  std::fprintf(stderr, "\r\033[K");
  print_series("first start to every first byte", "s", all, &Rows::all_s);
  print_series("one's start to its first byte", "ms", all, &Rows::each_ms);
  print_series("host memory each: own and kernel's", "MiB", all, &Rows::host_mib);
  print_costs(all);
  const Rows& mayfly = all[all.size() - 2];
  const Rows& floor = all.back();
  std::printf("\nalive=%u failed=%u mib_each=%.3f floor_mib_each=%.3f all_s=%.2f floor_all_s=%.2f\n", mayfly.last.alive,
              failed, mayfly.host_mib.median(), floor.host_mib.median(), mayfly.all_s.median(), floor.all_s.median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR FLOOR GUEST", [](const auto& paths, int rounds) {
    return mayfly::perf::run({paths[0], paths[1], paths[2]}, rounds);
  });
}
