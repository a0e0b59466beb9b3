// perf/run boot, on this machine's /dev/kvm: from the start request to the guest's first instruction, beside the bare
// KVM ioctls in their best order and in the usual one.

#include "perf/series.h"
#include "tests/support/child_process.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

struct Paths {
  std::string monitor;
  std::string floor;
  std::string guest;  ///< Its first instruction writes 123 to the boot timer's port.
};

/// All that was written to a pipe, once every writer is gone.
std::string drain(Pipe& pipe) {
  pipe.write.reset();
  std::string text;
  read_until(pipe.read.get(), text, "");
  return text;
}

double number_after(const std::string& text, const std::string& key) {
  const std::size_t at = text.find(key);
  if (at == std::string::npos) give_up("no " + key + " in:\n" + text);
  return std::strtod(text.c_str() + at + key.size(), nullptr);
}

/// The monitor tells the first instruction's time itself: the boot timer's line counts from --start-time-us.
double measure_monitor(const Paths& paths, const ScratchDirectory& scratch, int round) {
  const std::string socket = scratch.file("boot" + std::to_string(round));
  const SocketWaiter waiter{socket};
  Pipe log;
  ChildProcess process{{paths.monitor, "--api-sock", socket, "--boot-timer", "--start-time-us", "1"},
                       {.err = log.write.get()}};
  const OwnedFd connection = waiter.connect();
  must_exchange(connection.get(), "PUT", "/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 128})");
  must_exchange(connection.get(), "PUT", "/boot-source", R"({"kernel_image_path": ")" + paths.guest + "\"}");
  const double begin = now_us();
  must_exchange(connection.get(), "PUT", "/actions", R"({"action_type": "InstanceStart"})");
  const int code = process.wait();
  if (code != 0) give_up("the guest did not reset: exit code " + std::to_string(code) + "\n" + drain(log));
  return (number_after(drain(log), "Guest-boot-time = ") + 1 - begin) / 1e3;
}

struct Floor {
  double first_ms;
  double close_ms;
};

Floor measure_floor(const Paths& paths, const std::vector<std::string>& words) {
  Pipe out;
  std::vector<std::string> arguments = {paths.floor};
  arguments.insert(arguments.end(), words.begin(), words.end());
  ChildProcess process{arguments, {.out = out.write.get(), .err = STDERR_FILENO}};
  if (process.wait() != 0) give_up("the floor program failed");
  const std::string text = drain(out);
  return {number_after(text, "first_us=") / 1e3, number_after(text, "close_us=") / 1e3};
}

int run(const Paths& paths, int rounds) {
  const ScratchDirectory scratch;
  const std::vector<std::vector<std::string>> orders = {
      {"split"}, {"kernel"}, {"kernel", "pit"}, {"kernel", "pit", "slot-last"}};
  std::vector<Series> first = {Series{"mayfly: request to instruction"}, Series{"floor: slot, split irqchip"},
                               Series{"floor: slot, in-kernel irqchip"}, Series{"floor: slot, irqchip, PIT"},
                               Series{"floor: irqchip, PIT, slot last"}};
  std::vector<Series> closing = {Series{"split irqchip"}, Series{"in-kernel irqchip"}, Series{"irqchip and PIT"},
                                 Series{"irqchip, PIT, slot last"}};
  for (int round = 0; round < rounds; ++round) {
    first[0].add(measure_monitor(paths, scratch, round));
    for (std::size_t order = 0; order < orders.size(); ++order) {
      const Floor floor = measure_floor(paths, orders[order]);
      first[order + 1].add(floor.first_ms);
      closing[order].add(floor.close_ms);
    }
    std::fprintf(stderr, "\rround %d of %d", round + 1, rounds);
  }
  std::fprintf(stderr, "\r\033[K");
  print_table("first instruction, 128 MiB", "ms", first);
  print_table("closing the bare VM", "ms", closing);
  std::printf("\nfirst_insn_ms=%.3f floor_ms=%.3f\n", first[0].median(), first[1].median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR FLOOR GUEST", [](const auto& paths, int rounds) {
    return mayfly::perf::run({paths[0], paths[1], paths[2]}, rounds);
  });
}
