// perf/run working-set: from the load request until a restored guest has touched pages here and there, by how its
// memory comes in: at the first touch, by a recorded working set, all of the file at once, or read ahead as a whole;
// with the memory file in the page cache and not.

#include "perf/console_machine.h"
#include "perf/frozen_guest.h"
#include "perf/series.h"
#include "tests/support/child_process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <optional>
#include <string>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

constexpr unsigned kMemoryMib = 1024;
constexpr unsigned kSpanMib = 512;  // of which the guest touches pages
constexpr unsigned kPages = 2000;

enum class Mode { Lazy, Replay, Populate, ReadAhead };
constexpr std::array kModes = {Mode::Lazy, Mode::Replay, Mode::Populate, Mode::ReadAhead};

const char* name_of(Mode mode) {
  switch (mode) {
    case Mode::Lazy:
      return "lazy";
    case Mode::Replay:
      return "working set";
    case Mode::Populate:
      return "MAP_POPULATE";
    case Mode::ReadAhead:
      break;
  }
  return "read-ahead of all";
}

class Bench {
 public:
  Bench(std::string monitor, const std::string& guest) : monitor_(std::move(monitor)) {
    freeze(guest);
    record();
  }

  double measure(Mode mode, bool cold) {
    if (cold) drop_from_page_cache({state_, memory_, working_set_});
    ConsoleMachine monitor{monitor_, socket(), {"--boot-timer"}};
    monitor.type('g');
    const double begin = now_us();
    if (mode == Mode::Populate) populate();
    if (mode == Mode::ReadAhead) read_ahead();
    monitor.send("PUT", "/snapshot/load", load_body(mode == Mode::Replay ? "Replay" : ""));
    monitor.await("touched");
    return (now_us() - begin) / 1e3;
  }

 private:
  void freeze(const std::string& guest) {
    ConsoleMachine monitor{monitor_, socket(), {"--boot-timer"}};
    monitor.send("PUT", "/machine-config", R"({"vcpu_count": 1, "mem_size_mib": )" + std::to_string(kMemoryMib) + "}");
    monitor.send("PUT", "/boot-source",
                 R"({"kernel_image_path": )" + in_quotes(guest) + R"(, "boot_args": "console=ttyS0 span_mib=)" +
                     std::to_string(kSpanMib) + " pages=" + std::to_string(kPages) + "\"}");
    monitor.send("PUT", "/actions", R"({"action_type": "InstanceStart"})");
    monitor.await("ready");
    monitor.send("PATCH", "/vm", R"({"state": "Paused"})");
    monitor.send("PUT", "/snapshot/create",
                 R"({"snapshot_path": )" + in_quotes(state_) + R"(, "mem_file_path": )" + in_quotes(memory_) + "}");
  }

  void record() {
    ConsoleMachine monitor{monitor_, socket(), {"--boot-timer"}};
    monitor.send("PUT", "/snapshot/load", load_body("Record"));
    monitor.type('g');
    monitor.await("touched");
    monitor.send("PUT", "/actions", R"({"action_type": "FinishWorkingSet"})");
  }

  [[nodiscard]] std::string load_body(const std::string& working_set_mode) const {
    std::string body = R"({"snapshot_path": )" + in_quotes(state_) +
                       R"(, "resume_vm": true, "mem_backend": {"backend_type": "File", "backend_path": )" +
                       in_quotes(memory_) + "}";
    if (!working_set_mode.empty())
      body += R"(, "working_set": {"mode": )" + in_quotes(working_set_mode) + R"(, "path": )" +
              in_quotes(working_set_) + "}";
    return body + "}";
  }

  /// What MAP_POPULATE does before a guest could run: brings the whole file in.
  void populate() const {
    const OwnedFd file = open(memory_);
    struct stat status{};
    if (::fstat(file.get(), &status) != 0) give_up("cannot look at " + memory_);
    const auto length = static_cast<std::size_t>(status.st_size);
    void* const map = ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file.get(), 0);
    if (map == MAP_FAILED || ::munmap(map, length) != 0) give_up("cannot map " + memory_);
  }

  void read_ahead() const {
    const OwnedFd file = open(memory_);
    if (::posix_fadvise(file.get(), 0, 0, POSIX_FADV_WILLNEED) != 0) give_up("cannot read " + memory_ + " ahead");
  }

  static OwnedFd open(const std::string& path) {
    OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (!file) give_up("cannot open " + path);
    return file;
  }

  std::string socket() { return scratch_.file("api" + std::to_string(sockets_++)); }

  std::string monitor_;
  ScratchDirectory scratch_;
  std::string state_ = scratch_.file("state");
  std::string memory_ = scratch_.file("mem");
  std::string working_set_ = scratch_.file("working-set");
  unsigned sockets_ = 0;
};

int run(const std::string& monitor, const std::string& guest, int rounds) {
  Bench bench{monitor, guest};
  std::vector<Series> cached;
  std::vector<Series> cold;
  for (const Mode mode : kModes) {
    cached.emplace_back(std::string{"cached: "} + name_of(mode));
    cold.emplace_back(std::string{"cold: "} + name_of(mode));
  }
  bench.measure(Mode::Populate, false);  // all of it is in the cache now
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < kModes.size(); ++i) cached[i].add(bench.measure(kModes.at(i), false));
    std::fprintf(stderr, "\rcached: round %d of %d", round + 1, rounds);
  }
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < kModes.size(); ++i) cold[i].add(bench.measure(kModes.at(i), true));
    std::fprintf(stderr, "\rcold: round %d of %d   ", round + 1, rounds);
  }
  std::fprintf(stderr, "\r\033[K");
  const std::string what = "load until " + std::to_string(kPages) + " of " + std::to_string(kSpanMib * 256) + " pages";
  print_table(what.c_str(), "ms", cached);
  print_table(what.c_str(), "ms", cold);
  std::printf("\ncold_speedup=%.2f warm_ratio=%.2f\n", cold[0].median() / cold[1].median(),
              cached[1].median() / cached[0].median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR GUEST", [](const auto& paths, int rounds) {
    return mayfly::perf::run(paths[0], paths[1], rounds);
  });
}
