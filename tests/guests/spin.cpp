#include "runtime/guest.h"

/// Counts for ever in guest memory, at kCounter, where a test looks: a paused machine's counter stands still, a resumed
/// or restored one's goes on from where it was. Command line: tick=N prints a dot every N counts (none by default).
namespace {
constexpr std::uint64_t kCounter = 0x30'0000;
}  // namespace

void guest::guest_main(const BootInfo& boot) {
  auto& counter = memory_at<volatile std::uint64_t>(kCounter);
  const std::uint64_t tick = boot.number("tick", 0);
  counter = 0;
  print("spinning\n");
  for (std::uint64_t until_tick = tick;;) {
    counter = counter + 1;
    if (tick != 0 && --until_tick == 0) {
      print(".");
      until_tick = tick;
    }
  }
}
