// perf/run snapshot: how long a machine stands still for a snapshot and what the memory file takes of the disk, for
// several sizes of memory and several amounts that the guest has touched. The files are in memory, so that a disk's
// time, which is its own, is in no figure but the table that says so: there, beside a sparse copy of the same file.

#include "perf/series.h"
#include "tests/support/child_process.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

struct Paths {
  std::string monitor;
  std::string guest;  ///< tests/guests/survivor.cpp
};

struct Case {
  unsigned size_mib;
  unsigned touched_mib;
};

/// The first is what the last line tells of, and what is also written to a disk.
constexpr std::array kCases = {Case{128, 30},   Case{128, 90},  Case{1024, 30}, Case{1024, 90},
                               Case{1024, 600}, Case{4096, 30}, Case{4096, 90}, Case{4096, 600}};

constexpr const char* kMemoryFiles = "/dev/shm";

/// "30 of 128 MiB": touched, and in all.
std::string name_of(const Case& each) {
  return std::to_string(each.touched_mib) + " of " + std::to_string(each.size_mib) + " MiB";
}

double disk_bytes(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) give_up("there is no " + path);
  return static_cast<double>(status.st_blocks) * 512;
}

struct Taken {
  double pause_ms;   ///< From the request to pause to the answer to the request to resume.
  double create_ms;  ///< Of these, the request for the snapshot.
  double disk_bytes;
};

enum class Track { No, Yes };

/// A machine whose guest has touched its part, and its snapshots.
class Machine {
 public:
  /// `directory`: where its files go.
  Machine(const Paths& paths, const std::string& directory, const Case& each, Track track)
      : scratch_(directory),
        waiter_(scratch_.file("api")),
        process_({paths.monitor, "--api-sock", scratch_.file("api"), "--level", "Error"},
                 {.in = in_.read.get(), .out = out_.write.get(), .err = STDERR_FILENO}),
        connection_(waiter_.connect()) {
    send("PUT", "/machine-config",
         R"({"vcpu_count": 1, "mem_size_mib": )" + std::to_string(each.size_mib) + R"(, "track_dirty_pages": )" +
             (track == Track::Yes ? "true}" : "false}"));
    send("PUT", "/boot-source",
         R"({"kernel_image_path": ")" + paths.guest + R"(", "boot_args": "console=ttyS0 dirty_mib=)" +
             std::to_string(each.touched_mib) + "\"}");
    send("PUT", "/actions", R"({"action_type": "InstanceStart"})");
    await("survivor ready");
  }

  /// To fresh files: the end of files in their places would be a part of the time.
  Taken take(const std::string& type) {
    const std::string memory = memory_file(type);
    const double begin = now_us();
    send("PATCH", "/vm", R"({"state": "Paused"})");
    const double paused = now_us();
    send("PUT", "/snapshot/create",
         R"({"snapshot_type": ")" + type + R"(", "snapshot_path": ")" + memory + ".state" + R"(", "mem_file_path": ")" +
             memory + "\"}");
    const double created = now_us();
    send("PATCH", "/vm", R"({"state": "Resumed"})");
    return {(now_us() - begin) / 1e3, (created - paused) / 1e3, disk_bytes(memory)};
  }

  /// The guest writes a third of its pages anew.
  void change() {
    if (::write(in_.write.get(), "r", 1) != 1) give_up("cannot type");
    await(" ok");
  }

  /// What the guest's memory holds: pages of the process's own, and what is mapped of the guest's program. In bytes.
  /// The mappings are known by the flag "nr", which no other of the monitor's has (no reserve of swap space).
  [[nodiscard]] double touched_bytes() const {
    std::ifstream smaps{"/proc/" + std::to_string(process_.pid()) + "/smaps"};
    double sum = 0;
    double size = 0;
    double anonymous = 0;
    bool of_file = false;
    for (std::string line; std::getline(smaps, line);) {
      std::istringstream words{line};
      std::string key;
      words >> key;
      if (key.find('-') != std::string::npos) of_file = line.find('/') != std::string::npos;
      if (key == "Size:") words >> size;
      if (key == "Anonymous:") words >> anonymous;
      if (key == "VmFlags:" && line.find(" nr ") != std::string::npos) sum += of_file ? size : anonymous;
    }
    return sum * 1024;
  }

  [[nodiscard]] std::string memory_file(const std::string& type) const { return scratch_.file(type); }

 private:
  void send(const char* method, const char* path, const std::string& body) {
    must_exchange(connection_.get(), method, path, body);
  }
  void await(const std::string& words) {
    std::string text;
    read_until(out_.read.get(), text, words);
  }

  ScratchDirectory scratch_;
  Pipe in_, out_;
  SocketWaiter waiter_;
  ChildProcess process_;
  OwnedFd connection_;
};

double copy_ms(const std::string& path) {
  const std::string copy = path + ".copy";
  const double begin = now_us();
  ChildProcess cp{{"/bin/sh", "-c", "cp --sparse=always --reflink=never \"$0\" \"$1\" && sync \"$1\"", path, copy},
                  {.in = -1, .out = -1, .err = STDERR_FILENO}};
  if (cp.wait() != 0) give_up("cannot copy " + path);
  const double took = (now_us() - begin) / 1e3;
  ::unlink(copy.c_str());
  return took;
}

struct Tables {
  std::vector<Series> pause, create, disk, diff_pause, diff_create, diff_disk;
  std::vector<Series> on_disk = {Series{"mayfly: the whole pause"}, Series{"cp --sparse and sync of that file"}};
};

void measure_full(const Paths& paths, std::size_t at, Tables& tables) {
  Machine machine{paths, kMemoryFiles, kCases.at(at), Track::No};
  const Taken full = machine.take("Full");
  tables.pause[at].add(full.pause_ms);
  tables.create[at].add(full.create_ms);
  tables.disk[at].add(full.disk_bytes / machine.touched_bytes());
}

void measure_diff(const Paths& paths, std::size_t at, Tables& tables) {
  Machine machine{paths, kMemoryFiles, kCases.at(at), Track::Yes};
  (void)machine.take("Full");
  machine.change();
  const Taken diff = machine.take("Diff");
  tables.diff_pause[at].add(diff.pause_ms);
  tables.diff_create[at].add(diff.create_ms);
  tables.diff_disk[at].add(diff.disk_bytes / (kCases.at(at).touched_mib * 1048576.0 / 3));
}

void measure_on_disk(const Paths& paths, Tables& tables) {
  Machine machine{paths, "", kCases.front(), Track::No};
  tables.on_disk[0].add(machine.take("Full").pause_ms);
  tables.on_disk[1].add(copy_ms(machine.memory_file("Full")));
}

int run(const Paths& paths, int rounds) {
  Tables tables;
  for (const Case& each : kCases)
    for (auto* all :
         {&tables.pause, &tables.create, &tables.disk, &tables.diff_pause, &tables.diff_create, &tables.diff_disk})
      all->emplace_back(name_of(each));
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t at = 0; at < kCases.size(); ++at) {
      measure_full(paths, at, tables);
      measure_diff(paths, at, tables);
    }
    measure_on_disk(paths, tables);
    std::fprintf(stderr, "\rround %d of %d", round + 1, rounds);
  }
  std::fprintf(stderr, "\r\033[K");
  print_table("full: pause asked to resume answered", "ms", tables.pause);
  print_table("full: the snapshot alone", "ms", tables.create);
  print_table("full: disk over touched memory", "ratio", tables.disk);
  print_table("diff, a third changed: pause", "ms", tables.diff_pause);
  print_table("diff: the snapshot alone", "ms", tables.diff_create);
  print_table("diff: disk over changed memory", "ratio", tables.diff_disk);
  print_table(("on a disk: " + name_of(kCases.front())).c_str(), "ms", tables.on_disk);
  double worst = 1;
  for (const Series& ratio : tables.disk)
    if (std::abs(ratio.median() - 1) > std::abs(worst - 1)) worst = ratio.median();
  std::printf("\npause_ms=%.2f disk_over_touched=%.4f\n", tables.pause.front().median(), worst);
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR GUEST", [](const auto& paths, int rounds) {
    return mayfly::perf::run({paths[0], paths[1]}, rounds);
  });
}
