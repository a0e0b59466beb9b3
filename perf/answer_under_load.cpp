// perf/run answer-under-load: how long a client waits for GET / and GET /metrics/prometheus while the machine writes a
// snapshot of much memory to a slow disk; and how long SIGTERM takes during another such snapshot. The disk is a file
// system by FUSE of this process's own, which throws the data away: so slow that the snapshot takes a while, and the
// same on every host.

#include "perf/series.h"
#include "tests/support/child_process.h"
#include "tests/support/logged_file_system.h"
#include "tests/support/monitor_jail.h"
#include "tests/support/pending_request.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

/// What the guest's program takes, below what it touches.
constexpr unsigned kGuestMib = 64;

/// Of the disk: each write takes so long, and all of them share the bandwidth.
constexpr double kWriteUs = 5e3;
constexpr double kBytesPerUs = 1073.741824;  // 1 GiB/s

/// Between an answer and the next request.
constexpr double kPauseSeconds = 0.003;
/// The second snapshot is under way when so much of it is written.
constexpr std::uint64_t kUnderWayBytes = 64 << 20;
/// No end is longer than the snapshot that it waits for.
constexpr double kLongestSeconds = 900;

struct Options {
  std::string monitor;
  std::string guest;  ///< tests/guests/toucher.cpp
  unsigned memory_mib;
};

DiskDelay slow_writes() {
  return [free_us = 0.0](const DiskRequest& request) mutable -> double {
    if (request.kind != DiskRequest::Kind::Write) return 0;
    const double now = now_us();
    free_us = std::max(free_us, now) + static_cast<double>(request.size) / kBytesPerUs;
    return free_us - now + kWriteUs;
  };
}

/// A paused machine whose guest has touched its memory.
class Machine {
 public:
  explicit Machine(const Options& options)
      : waiter_(scratch_.file("api")),
        process_({options.monitor, "--api-sock", scratch_.file("api"), "--level", "Error"},
                 {.out = out_.write.get(), .err = STDERR_FILENO}),
        connection_(waiter_.connect()) {
    out_.write.reset();
    send("PUT", "/machine-config",
         R"({"vcpu_count": 1, "mem_size_mib": )" + std::to_string(options.memory_mib + kGuestMib) + "}");
    send("PUT", "/boot-source",
         R"({"kernel_image_path": ")" + options.guest + R"(", "boot_args": "console=ttyS0 span_mib=)" +
             std::to_string(options.memory_mib) + "\"}");
    send("PUT", "/actions", R"({"action_type": "InstanceStart"})");
    std::string said;
    read_until(out_.read.get(), said, "toucher ready");
    send("PATCH", "/vm", R"({"state": "Paused"})");
    disk_.delay(slow_writes());
  }

  [[nodiscard]] PendingRequest begin_snapshot(const std::string& name) const {
    return {scratch_.file("api"), "PUT", "/snapshot/create",
            R"({"snapshot_path": ")" + on_disk(name + ".state") + R"(", "mem_file_path": ")" + on_disk(name + ".mem") +
                "\"}"};
  }
  [[nodiscard]] double get_ms(const char* path) const {
    const double begin = now_us();
    must_exchange(connection_.get(), "GET", path, "");
    return (now_us() - begin) / 1e3;
  }
  /// Seconds from SIGTERM until the process is gone.
  [[nodiscard]] double end() {
    const double begin = now_us();
    process_.signal(SIGTERM);
    if (!has_ended_within(process_, kLongestSeconds)) give_up("SIGTERM does not end the monitor");
    const double seconds = (now_us() - begin) / 1e6;
    if (const int code = process_.wait(); code != 128 + SIGTERM) give_up("exit code " + std::to_string(code));
    return seconds;
  }
  [[nodiscard]] std::uint64_t written() const { return disk_.written(); }
  [[nodiscard]] std::string half_files() const {
    std::string names;
    for (const auto& entry : std::filesystem::directory_iterator{on_disk("")})
      if (const std::string name = entry.path().filename(); name.ends_with(".mayfly-new")) names += " " + name;
    return names.empty() ? " none" : names;
  }

 private:
  [[nodiscard]] std::string on_disk(const std::string& name) const { return scratch_.file("disk/" + name); }
  void send(const char* method, const char* path, const std::string& body) const {
    must_exchange(connection_.get(), method, path, body);
  }

  ScratchDirectory scratch_;
  LoggedFileSystem disk_{scratch_.file("disk"), {}, LoggedFileSystem::Keep::NamesAlone};
  Pipe out_;
  SocketWaiter waiter_;
  ChildProcess process_;
  OwnedFd connection_;
};

int run(const Options& options) {
  enter_own_mounts();
  Machine machine{options};
  std::vector<Series> gets = {Series{"GET /"}, Series{"GET /metrics/prometheus"}};
  Series all{"both"};

  const double begin = now_us();
  PendingRequest snapshot = machine.begin_snapshot("first");
  std::optional<HttpAnswer> answer;
  for (std::size_t turn = 0; !(answer = snapshot.answer_within(kPauseSeconds)); ++turn) {
    const double ms = machine.get_ms(turn % 2 == 0 ? "/" : "/metrics/prometheus");
    gets.at(turn % 2).add(ms);
    all.add(ms);
  }
  const double seconds = (now_us() - begin) / 1e6;
  if (answer->status != 204) give_up("the snapshot was refused: " + answer->body);
  const auto mib = static_cast<double>(machine.written()) / 1048576;

  const std::uint64_t under_way = machine.written() + kUnderWayBytes;
  snapshot = machine.begin_snapshot("second");
  while (machine.written() < under_way)
    if (snapshot.answer_within(kPauseSeconds)) give_up("the second snapshot ended too early");
  const double term_seconds = machine.end();

  gets.push_back(all);
  print_table("during a snapshot to a slow disk", "ms", gets);
  std::printf("\nsnapshot: %.0f MiB in %.1f s, %zu answers meanwhile\n", mib, seconds, all.count());
  std::printf("files that SIGTERM during a snapshot left half written:%s\n", machine.half_files().c_str());
  std::printf("\nanswer-under-load: get_ms_p50=%.2f get_ms_p99=%.2f term_s=%.2f\n", all.median(), all.quantile(0.99),
              term_seconds);
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: %s MONITOR GUEST MEMORY-MIB\n", argv[0]), 2;
  try {
    return mayfly::perf::run({argv[1], argv[2], static_cast<unsigned>(std::strtoul(argv[3], nullptr, 10))});
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "perf: %s\n", failure.what());
    return 1;
  }
}
