// perf/run block, on this machine's /dev/kvm: a bare-metal guest's requests on a drive, beside fio's io_uring engine on
// the same file with the same pattern; and the host's system calls a request.

#include "perf/bench_machine.h"
#include "perf/series.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

struct Paths {
  std::string monitor;
  std::string guest;
  std::string image;
};

struct Load {
  const char* name;
  unsigned depth;
  unsigned size;
  unsigned count;
  bool write;
  bool sequential;
};

constexpr std::array kLoads = {
    Load{"4 KiB random read, depth 1", 1, 4096, 60'000, false, false},
    Load{"4 KiB random read, depth 32", 32, 4096, 400'000, false, false},
    Load{"4 KiB random read, depth 128", 128, 4096, 400'000, false, false},
    Load{"4 KiB random write, depth 1", 1, 4096, 60'000, true, false},
    Load{"4 KiB random write, depth 32", 32, 4096, 200'000, true, false},
    Load{"4 KiB random write, depth 128", 128, 4096, 200'000, true, false},
    Load{"128 KiB sequential read, depth 32", 32, 131'072, 20'000, false, true},
    Load{"128 KiB sequential write, depth 32", 32, 131'072, 10'000, true, true},
};

std::string boot_args(const Load& load, unsigned count) {
  return "depth=" + std::to_string(load.depth) + " size=" + std::to_string(load.size) +
         " count=" + std::to_string(count) + " write=" + std::to_string(static_cast<int>(load.write)) +
         " sequential=" + std::to_string(static_cast<int>(load.sequential));
}

/// Requests a second, and the CPU time of one.
struct Outcome {
  double per_second;
  double cpu_us;
  double loop_cpu_us;
};

Outcome run_guest(const Paths& paths, const ScratchDirectory& scratch, const Load& load, unsigned count,
                  const std::vector<std::string>& launcher) {
  BenchMachine machine{
      scratch,
      {.monitor = paths.monitor,
       .guest = paths.guest,
       .boot_args = boot_args(load, count),
       .device_path = "/drives/disk",
       .device = R"({"drive_id": "disk", "is_root_device": false, "path_on_host": ")" + paths.image + "\"}",
       .launcher = launcher}};
  const BenchCost cost = machine.finish();
  return {.per_second = count / cost.seconds, .cpu_us = cost.cpu_us / count, .loop_cpu_us = cost.loop_cpu_us / count};
}

double run_fio(const Paths& paths, const Load& load) {
  Pipe out;
  const std::string pattern = std::string{load.sequential ? "" : "rand"} + (load.write ? "write" : "read");
  ChildProcess fio{{"/usr/bin/fio", "--name=peer", "--filename=" + paths.image, "--ioengine=io_uring",
                    "--rw=" + pattern, "--bs=" + std::to_string(load.size), "--iodepth=" + std::to_string(load.depth),
                    "--number_ios=" + std::to_string(load.count), "--io_size=1T", "--size=100%", "--norandommap",
                    "--randrepeat=0", "--registerfiles=1", "--invalidate=0", "--minimal"},
                   {.in = -1, .out = out.write.get(), .err = STDERR_FILENO}};
  out.write.reset();
  std::string text;
  read_until(out.read.get(), text, "");
  if (fio.wait() != 0) give_up("fio failed:\n" + text);
  // Terse output, version 3: field 8 is the reads' rate, field 49 the writes'.
  std::size_t at = 0;
  for (int field = 1; field < (load.write ? 49 : 8); ++field) at = text.find(';', at) + 1;
  return std::strtod(text.c_str() + at, nullptr);
}

double calls_per_request(const Paths& paths, const ScratchDirectory& scratch, const Load& load, int rounds) {
  const Series calls = system_calls_each(
      scratch, {.shorter = 2'000, .longer = 12'000}, rounds,
      [&](unsigned count, const auto& launcher) { run_guest(paths, scratch, load, count, launcher); });
  std::printf("%s\n", load.name);
  print_table("system calls", "1/request", {calls});
  return calls.median();
}

int run(const Paths& paths, int rounds) {
  const ScratchDirectory scratch;
  double ratio_depth_32 = 0;
  for (const Load& load : kLoads) {
    std::vector<Series> rates = {Series{"mayfly"}, Series{"fio, io_uring, no guest"}};
    std::vector<Series> cpu = {Series{"mayfly, polling guest included"}, Series{"mayfly's loop alone"}};
    for (int round = 0; round < rounds; ++round) {
      std::fprintf(stderr, "\r\033[K%s: round %d of %d", load.name, round + 1, rounds);
      const Outcome outcome = run_guest(paths, scratch, load, load.count, {});
      rates[0].add(outcome.per_second / 1e3);
      cpu[0].add(outcome.cpu_us);
      cpu[1].add(outcome.loop_cpu_us);
      rates[1].add(run_fio(paths, load) / 1e3);
    }
    std::fprintf(stderr, "\r\033[K");
    std::printf("%s\n", load.name);
    print_table("rate", "1000/s", rates);
    print_table("CPU time a request", "us", cpu);
    const double ratio = rates[0].median() / rates[1].median();
    std::printf("ratio %.2f\n\n", ratio);
    if (load.depth == 32 && !load.write && !load.sequential) ratio_depth_32 = ratio;
  }
  const double calls_1 = calls_per_request(paths, scratch, kLoads[0], rounds);
  const double calls_32 = calls_per_request(paths, scratch, kLoads[1], rounds);
  std::printf("host_ratio_d32=%.2f syscalls_per_req_d1=%.2f syscalls_per_req_d32=%.2f\n", ratio_depth_32, calls_1,
              calls_32);
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR GUEST IMAGE", [](const auto& paths, int rounds) {
    return mayfly::perf::run({paths[0], paths[1], paths[2]}, rounds);
  });
}
