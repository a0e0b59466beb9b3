#include "runtime/guest.h"
#include "runtime/processor.h"

/// Listens to its keyboard as Linux does (interrupt on, codes translated), and pulls the reset line at Delete, the last
/// key of Ctrl-Alt-Del. Looks now and then; takes no interrupts.
namespace {
constexpr std::uint16_t kData = 0x60;
constexpr std::uint16_t kControl = 0x64;
constexpr std::uint8_t kOutputFull = 1U << 0;
constexpr std::uint8_t kWriteCommandByte = 0x60;
constexpr std::uint8_t kInterruptAndTranslation = 0x41;
constexpr std::uint8_t kDelete = 0x53;
constexpr std::uint64_t kIdleCycles = 10'000'000;
}  // namespace

void guest::guest_main(const BootInfo&) {
  out8(kControl, kWriteCommandByte);
  out8(kData, kInterruptAndTranslation);
  print("listening\n");
  for (;;) {
    spin_for(kIdleCycles);
    while ((in8(kControl) & kOutputFull) != 0)
      if (in8(kData) == kDelete) reset();
  }
}
