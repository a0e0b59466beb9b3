#include "perf/bench_machine.h"

#include "tests/support/files.h"

#include <unistd.h>

#include <sstream>
#include <stdexcept>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

std::string fresh_socket(const ScratchDirectory& scratch) {
  static int run = 0;
  return scratch.file("bench" + std::to_string(++run));
}

std::vector<std::string> command(const BenchMachine::Options& options, const std::string& socket) {
  std::vector<std::string> words = options.launcher;
  words.insert(words.end(), {options.monitor, "--api-sock", socket, "--level", "Error"});
  words.insert(words.end(), options.arguments.begin(), options.arguments.end());
  return words;
}

/// perf leaves the command as fast as it is, which strace does not; but not every host lets its user have it.
bool has_perf() {
  static const bool has = [] {
    try {
      ChildProcess perf{{"perf", "stat", "-e", "raw_syscalls:sys_enter", "--", "true"}, {}};
      return perf.wait() == 0;
    } catch (const std::runtime_error&) {
      return false;
    }
  }();
  return has;
}

std::vector<std::string> counting_launcher(const std::string& report) {
  if (has_perf()) return {"perf", "stat", "-e", "raw_syscalls:sys_enter", "-x", " ", "-o", report, "--"};
  return {"strace", "-f", "-c", "-S", "calls", "-U", "name,calls", "-o", report};
}

/// The line "COUNT  raw_syscalls:sys_enter ..." of perf, or "total COUNT" of strace.
double total_calls(const std::string& report) {
  std::istringstream lines{content_of(report)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields{line};
    std::string first;
    std::string second;
    if (!(fields >> first >> second)) continue;
    if (first == "total") return std::stod(second);
    if (second == "raw_syscalls:sys_enter") return std::stod(first);
  }
  give_up("no system calls were counted");
}

}  // namespace

BenchMachine::BenchMachine(const ScratchDirectory& scratch, const Options& options)
    : BenchMachine(options, fresh_socket(scratch)) {}

BenchMachine::BenchMachine(const Options& options, const std::string& socket)
    : waiter_(socket), process_(command(options, socket), {.out = console_.write.get(), .err = STDERR_FILENO}) {
  console_.write.reset();
  const OwnedFd connection = waiter_.connect();
  must_exchange(connection.get(), "PUT", options.device_path, options.device);
  must_exchange(
      connection.get(), "PUT", "/boot-source",
      R"({"kernel_image_path": ")" + options.guest + R"(", "boot_args": "console=ttyS0 )" + options.boot_args + "\"}");
  must_exchange(connection.get(), "PUT", "/actions", R"({"action_type": "InstanceStart"})");
  read_until(console_.read.get(), text_, "BENCH START");
  begin_us_ = now_us();
  cpu_begin_us_ = process_.cpu_time_us();
  loop_begin_us_ = process_.main_thread_cpu_us();
}

BenchCost BenchMachine::finish() {
  read_until(console_.read.get(), text_, "BENCH END");
  const BenchCost cost{.seconds = (now_us() - begin_us_) / 1e6,
                       .cpu_us = process_.cpu_time_us() - cpu_begin_us_,
                       .loop_cpu_us = process_.main_thread_cpu_us() - loop_begin_us_};
  read_until(console_.read.get(), text_, "");
  if (process_.wait() != 0) give_up("the guest failed:\n" + text_);
  return cost;
}

Series system_calls_each(const ScratchDirectory& scratch, const Lengths& lengths, int rounds,
                         const std::function<void(unsigned count, const std::vector<std::string>& launcher)>& run) {
  const std::string report = scratch.file("calls");
  const auto calls = [&](unsigned count) {
    run(count, counting_launcher(report));
    return total_calls(report);
  };
  Series each{"mayfly"};
  for (int round = 0; round < rounds; ++round) {
    const double longer = calls(lengths.longer);
    each.add((longer - calls(lengths.shorter)) / (lengths.longer - lengths.shorter));
  }
  return each;
}

}  // namespace mayfly::perf
