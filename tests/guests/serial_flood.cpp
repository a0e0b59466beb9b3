#include "runtime/guest.h"

#include <algorithm>
#include <array>
#include <span>

/// Writes bytes=N (64K unless told) to the serial port as fast as it can: lines of 63 characters, each the next letter
/// of the alphabet (byte i is 'a' + i % 26), and a newline after each (byte i where i % 64 is 63). With string=1, by
/// REP OUTSB a line at a time, without looking whether the port is ready.
namespace {

constexpr std::uint64_t kLine = 64;

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const std::uint64_t total = boot.number("bytes", 64 << 10);
  const bool by_string = boot.number("string", 0) != 0;
  std::array<std::uint8_t, kLine> line;
  for (std::uint64_t done = 0; done < total;) {
    const std::uint64_t count = std::min(kLine, total - done);
    for (std::uint64_t index = 0; index < count; ++index)
      line[index] = index == kLine - 1 ? '\n' : static_cast<std::uint8_t>('a' + (done + index) % 26);
    if (by_string)
      out_string(serial::kData, std::span{line}.first(count));
    else
      write_serial({reinterpret_cast<const char*>(line.data()), count});
    done += count;
  }
  print("\n");
  pass();
}
