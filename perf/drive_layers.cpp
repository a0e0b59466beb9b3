// perf/run layers: what a drive in layers costs beside a plain one. A bare-metal guest's requests of 4 KiB on an overlay
// that has all blocks, on one that has none, and on a plain file of the same size; and from the request to load a clone
// with a drive of 4 GiB and an overlay of its own to the answer, beside a clone without a drive.

#include "perf/bench_machine.h"
#include "perf/console_machine.h"
#include "perf/series.h"
#include "tests/support/child_process.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

constexpr std::uint64_t kImageBytes = 256ULL << 20;
constexpr std::uint64_t kCloneDriveBytes = 4ULL << 30;
constexpr unsigned kDepth = 32;
constexpr unsigned kRequests = 200'000;

void make_image(const std::string& path, std::uint64_t data, std::uint64_t size) {
  const OwnedFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)};
  const std::string piece(1 << 20, 'x');
  for (std::uint64_t at = 0; at < data; at += piece.size())
    if (::pwrite(file.get(), piece.data(), piece.size(), static_cast<off_t>(at)) < 0) give_up("cannot write " + path);
  if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0) give_up("cannot make " + path);
}

/// A drive: a plain file, or an overlay over a base.
struct Disk {
  std::string path;
  std::string base{};
  [[nodiscard]] std::string json() const {
    return R"({"drive_id": "disk", "is_root_device": false, "path_on_host": )" + in_quotes(path) +
           (base.empty() ? "" : R"(, "base_path": )" + in_quotes(base)) + "}";
  }
};

struct Bench {
  std::string monitor;
  std::string guest;
  const ScratchDirectory& scratch;

  /// Requests a second, in thousands.
  [[nodiscard]] double run(const Disk& disk, const std::string& boot_args, unsigned count) const {
    BenchMachine machine{scratch,
                         {.monitor = monitor,
                          .guest = guest,
                          .boot_args = boot_args + " count=" + std::to_string(count),
                          .device_path = "/drives/disk",
                          .device = disk.json()}};
    return count / machine.finish().seconds / 1e3;
  }
  [[nodiscard]] double run_random(const Disk& disk, bool write) const {
    return run(disk, "depth=" + std::to_string(kDepth) + " size=4096 sequential=0 write=" + (write ? "1" : "0"),
               kRequests);
  }
};

/// Medians of a plain drive and of an overlay: how many times the first the second is.
double compare(const Bench& bench, const Disk& plain, const Disk& overlay, bool write, const char* title, int rounds) {
  std::vector<Series> rates = {Series{"plain file"}, Series{"overlay"}};
  for (int round = 0; round < rounds; ++round) {
    rates[0].add(bench.run_random(plain, write));
    rates[1].add(bench.run_random(overlay, write));
    std::fprintf(stderr, "\r%s: round %d of %d", title, round + 1, rounds);
  }
  std::fprintf(stderr, "\r\033[K");
  print_table(title, "1000/s", rates);
  return rates[1].median() / rates[0].median();
}

/// A snapshot of a machine, with a drive of 4 GiB or without, and loads of it.
class Clones {
 public:
  Clones(std::string monitor, const std::string& guest, bool with_drive)
      : monitor_(std::move(monitor)), with_drive_(with_drive) {
    if (with_drive) make_image(base(), 1 << 20, kCloneDriveBytes);
    ConsoleMachine machine{monitor_, socket()};
    const auto put = [&](const char* path, const std::string& body) { machine.send("PUT", path, body); };
    put("/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 128})");
    if (with_drive) put("/drives/disk", Disk{.path = scratch_.file("first"), .base = base()}.json());
    put("/boot-source", R"({"kernel_image_path": )" + in_quotes(guest) + R"(, "boot_args": "console=ttyS0"})");
    put("/actions", R"({"action_type": "InstanceStart"})");
    machine.await("survivor ready");
    machine.send("PATCH", "/vm", R"({"state": "Paused"})");
    put("/snapshot/create", R"({"snapshot_path": )" + in_quotes(scratch_.file("state")) + R"(, "mem_file_path": )" +
                                in_quotes(scratch_.file("memory")) + "}");
  }
  /// Milliseconds from the request to its answer.
  double load() {
    const ConsoleMachine machine{monitor_, socket()};
    const std::string overlay = scratch_.file("overlay" + std::to_string(sockets_));
    const std::string drive = R"(, "drive_overrides": [{"drive_id": "disk", "path_on_host": )" + in_quotes(overlay) +
                              R"(, "base_path": )" + in_quotes(base()) + "}]";
    const std::string body = R"({"snapshot_path": )" + in_quotes(scratch_.file("state")) +
                             R"(, "resume_vm": true, "mem_backend": {"backend_type": "File", "backend_path": )" +
                             in_quotes(scratch_.file("memory")) + "}" + (with_drive_ ? drive : "") + "}";
    const double begin = now_us();
    machine.send("PUT", "/snapshot/load", body);
    return (now_us() - begin) / 1e3;
  }

 private:
  [[nodiscard]] std::string base() const { return scratch_.file("base"); }
  std::string socket() { return scratch_.file("api" + std::to_string(sockets_++)); }

  std::string monitor_;
  bool with_drive_;
  ScratchDirectory scratch_;
  unsigned sockets_ = 0;
};

int run(const std::string& monitor, const std::string& block_guest, const std::string& survivor, int rounds) {
  const ScratchDirectory scratch;
  const Bench bench{.monitor = monitor, .guest = block_guest, .scratch = scratch};
  const Disk plain{.path = scratch.file("plain")};
  const std::string base = scratch.file("base");
  for (const std::string& path : {plain.path, base}) make_image(path, kImageBytes, kImageBytes);
  const Disk none{.path = scratch.file("none"), .base = base};
  const Disk all{.path = scratch.file("all"), .base = base};
  constexpr unsigned kPiece = 128 * 1024;
  // Both are written whole by a guest first, or writes to one would find its pages dirty already and to the other not.
  for (const Disk* disk : {&plain, &all})
    (void)bench.run(*disk, "depth=32 size=131072 sequential=1 write=1", kImageBytes / kPiece);

  const double reads = compare(bench, plain, none, false, "4 KiB random reads through an empty overlay", rounds);
  (void)compare(bench, plain, all, false, "4 KiB random reads of an overlay that has all blocks", rounds);
  const double writes = compare(bench, plain, all, true, "4 KiB random writes after the first", rounds);

  std::vector<Series> loads = {Series{"without a drive"}, Series{"with an overlay over 4 GiB"}};
  Clones without{monitor, survivor, false};
  Clones with{monitor, survivor, true};
  for (int round = 0; round < 4 * rounds; ++round) {
    loads[0].add(without.load());
    loads[1].add(with.load());
  }
  print_table("load request of a clone to its answer", "ms", loads);
  std::printf("\nclone_ms=%.3f clone_plain_ms=%.3f read_ratio=%.2f write_ratio=%.2f\n", loads[1].median(),
              loads[0].median(), reads, writes);
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR BLOCK_GUEST SURVIVOR", [](const auto& paths, int rounds) {
    return mayfly::perf::run(paths[0], paths[1], paths[2], rounds);
  });
}
