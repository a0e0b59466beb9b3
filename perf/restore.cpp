// perf/run restore: from the load request to the guest's first instruction and to its first answer, at several sizes of
// memory, with its file in the page cache and not, beside the bare KVM ioctls on the same file.

#include "perf/series.h"
#include "tests/support/child_process.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

struct Paths {
  std::string monitor;
  std::string floor;
  std::string guest;  ///< tests/guests/restored.cpp
};

/// Where the guest looks for leave to go on.
constexpr off_t kGoOn = 0x800000;

std::string in_quotes(const std::string& text) { return '"' + text + '"'; }

double number_after(const std::string& text, const std::string& key) {
  const std::size_t at = text.find(key);
  if (at == std::string::npos) give_up("no " + key + " in:\n" + text);
  return std::strtod(text.c_str() + at + key.size(), nullptr);
}

/// A snapshot of the waiting guest, and leave to go on in its memory file.
class Frozen {
 public:
  Frozen(const Paths& paths, const ScratchDirectory& scratch, unsigned mib)
      : mib_(mib),
        state_(scratch.file(std::to_string(mib) + ".state")),
        memory_(scratch.file(std::to_string(mib) + ".mem")) {
    const std::string socket = scratch.file("freeze" + std::to_string(mib));
    const SocketWaiter waiter{socket};
    Pipe console;
    ChildProcess process{{paths.monitor, "--api-sock", socket, "--boot-timer", "--level", "Error"},
                         {.out = console.write.get()}};
    const OwnedFd connection = waiter.connect();
    const int fd = connection.get();
    must_exchange(fd, "PUT", "/machine-config", R"({"vcpu_count": 1, "mem_size_mib": )" + std::to_string(mib) + "}");
    must_exchange(fd, "PUT", "/boot-source",
                  R"({"kernel_image_path": )" + in_quotes(paths.guest) + R"(, "boot_args": "console=ttyS0"})");
    must_exchange(fd, "PUT", "/actions", R"({"action_type": "InstanceStart"})");
    std::string text;
    read_until(console.read.get(), text, "W");
    must_exchange(fd, "PATCH", "/vm", R"({"state": "Paused"})");
    must_exchange(fd, "PUT", "/snapshot/create",
                  R"({"snapshot_path": )" + in_quotes(state_) + R"(, "mem_file_path": )" + in_quotes(memory_) + "}");
    const OwnedFd file{::open(memory_.c_str(), O_WRONLY | O_CLOEXEC)};
    const char one = 1;
    if (::pwrite(file.get(), &one, 1, kGoOn) != 1 || ::fsync(file.get()) != 0) give_up("cannot write to " + memory_);
  }

  [[nodiscard]] unsigned mib() const { return mib_; }
  [[nodiscard]] const std::string& state() const { return state_; }
  [[nodiscard]] const std::string& memory() const { return memory_; }
  /// Takes the files out of the page cache.
  void cool() const {
    for (const std::string& path : {state_, memory_}) {
      const OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
      if (::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED) != 0)
        give_up("cannot drop " + path + " from the cache");
    }
  }

 private:
  unsigned mib_;
  std::string state_;
  std::string memory_;
};

struct Restored {
  double first_ms;   ///< Load request to the guest's first instruction.
  double answer_ms;  ///< ... to its first byte on the console.
};

Restored measure_monitor(const Paths& paths, const ScratchDirectory& scratch, const Frozen& frozen) {
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

double measure_floor(const Paths& paths, const Frozen& frozen) {
  Pipe out;
  ChildProcess process{{paths.floor, "restore", frozen.memory(), std::to_string(frozen.mib())},
                       {.out = out.write.get(), .err = STDERR_FILENO}};
  out.write.reset();
  std::string text;
  read_until(out.read.get(), text, "");
  if (process.wait() != 0) give_up("the floor program failed");
  return number_after(text, "first_us=") / 1e3;
}

int run(const Paths& paths, int rounds) {
  const ScratchDirectory scratch;
  std::vector<Frozen> sizes;
  for (const unsigned mib : {128U, 1024U, 4096U}) sizes.emplace_back(paths, scratch, mib);
  std::vector<Series> first;
  std::vector<Series> answer;
  std::vector<Series> floor;
  for (const char* cache : {"cached", "cold"})
    for (const Frozen& size : sizes) {
      const std::string name = std::to_string(size.mib()) + " MiB, " + cache;
      first.emplace_back("mayfly: " + name);
      answer.emplace_back("mayfly: " + name);
      floor.emplace_back("floor: " + name);
    }
  // All that is cached before anything is cold: what one restore has dropped, another would read again.
  for (const Frozen& size : sizes) measure_monitor(paths, scratch, size);
  for (const bool cold : {false, true})
    for (int round = 0; round < rounds; ++round) {
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        const std::size_t at = i + (cold ? sizes.size() : 0);
        if (cold) sizes[i].cool();
        const Restored restored = measure_monitor(paths, scratch, sizes[i]);
        first[at].add(restored.first_ms);
        answer[at].add(restored.answer_ms);
        if (cold) sizes[i].cool();
        floor[at].add(measure_floor(paths, sizes[i]));
      }
      std::fprintf(stderr, "\r%s: round %d of %d", cold ? "cold" : "cached", round + 1, rounds);
    }
  std::fprintf(stderr, "\r\033[K");
  print_table("load request to first instruction", "ms", first);
  print_table("load request to the guest's first byte on the console", "ms", answer);
  print_table("bare ioctls to first instruction", "ms", floor);
  std::printf("\nfirst_ms_128=%.3f floor_ms_128=%.3f ratio_128=%.2f first_ms_4096=%.3f ratio_4096=%.2f\n",
              first[0].median(), floor[0].median(), first[0].median() / floor[0].median(), first[2].median(),
              first[2].median() / floor[2].median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR FLOOR GUEST", [](const auto& paths, int rounds) {
    return mayfly::perf::run({paths[0], paths[1], paths[2]}, rounds);
  });
}
