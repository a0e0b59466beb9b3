#pragma once

#include "perf/series.h"
#include "tests/support/child_process.h"

#include <functional>
#include <string>
#include <vector>

/// A machine with one device, whose bare-metal guest (tests/guests/*_bench.cpp) says BENCH START and BENCH END around
/// what is measured.
///
///   BenchMachine machine{scratch, {.monitor = ..., .guest = ..., .boot_args = "count=1000", .device = ...}};
///   ... what the host does meanwhile ...
///   const BenchCost cost = machine.finish();
///
/// What goes wrong throws std::runtime_error.
namespace mayfly::perf {

/// From START to END.
struct BenchCost {
  double seconds = 0;
  double cpu_us = 0;       ///< CPU time of the whole process, a polling guest's vCPU included.
  double loop_cpu_us = 0;  ///< That of the monitor's loop alone, which does all I/O.
};

class BenchMachine {
 public:
  struct Options {
    std::string monitor;
    std::string guest;
    std::string boot_args;
    std::string device_path;  ///< Of the API: "/drives/disk".
    std::string device;       ///< The request's body.
    /// A command that ends by executing the one that follows it; the CPU time is its own then.
    std::vector<std::string> launcher{};
    std::vector<std::string> arguments{};  ///< More of the monitor's.
  };
  /// Boots; returns when the guest begins.
  BenchMachine(const testing::ScratchDirectory& scratch, const Options& options);
  /// Waits for END, then for the process.
  BenchCost finish();

 private:
  BenchMachine(const Options& options, const std::string& socket);

  testing::Pipe console_;
  std::string text_;
  testing::SocketWaiter waiter_;
  testing::ChildProcess process_;
  double begin_us_ = 0;
  double cpu_begin_us_ = 0;
  double loop_begin_us_ = 0;
};

/// System calls of a whole process for each of many, a sample a round: `run` does `count` of them under a launcher that
/// counts. What start and end cost, two runs of different length cancel; what the host does to one run (a guest that it
/// stops is one that polling does not see), the median does.
struct Lengths {
  unsigned shorter;
  unsigned longer;
};
Series system_calls_each(const testing::ScratchDirectory& scratch, const Lengths& lengths, int rounds,
                         const std::function<void(unsigned count, const std::vector<std::string>& launcher)>& run);

}  // namespace mayfly::perf
