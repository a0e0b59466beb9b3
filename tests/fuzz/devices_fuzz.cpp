// What a hostile guest can do to the legacy devices: any access of any width at any of their addresses, in any order,
// with time passing in between. Each input is a sequence of accesses; after it, every device's state must survive a
// round trip.

#include "tests/fuzz/must.h"
#include "tests/fuzz/platform_surroundings.h"
#include "vmm/boot/layout.h"
#include "vmm/devices/acpi_sleep_ports.h"
#include "vmm/devices/boot_timer.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/dual_pic.h"
#include "vmm/devices/i8042.h"
#include "vmm/devices/ioapic.h"
#include "vmm/devices/panic_port.h"
#include "vmm/devices/pit.h"
#include "vmm/devices/serial.h"
#include "vmm/devices/serial_output_buffer.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace mayfly {
namespace {

/// One access: what, where, how wide, and with which value.
struct Access {
  std::uint8_t kind;
  std::uint8_t place;
  std::uint8_t width;
  std::uint8_t value[8];
};

template <typename Device>
void survive_round_trip(Device& device) {
  const auto state = device.state();
  device.restore(state);
  must(device.state() == state);
}

void play(std::span<const std::uint8_t> input) {
  PlatformSurroundings world;
  UartMetrics metrics;
  Ioapic ioapic{world};
  DualPic pic;
  Pit pit{InterruptLine{ioapic, layout::kTimerGsi}, world, world};
  I8042 i8042{InterruptLine{ioapic, layout::kKeyboardGsi}, world};
  SerialOutputBuffer output{TokenBucketConfig{.size = 100, .refill_time_ms = 10}, world, metrics, world};
  Serial serial{InterruptLine{ioapic, layout::kSerialGsi}, output, world};
  AcpiSleepPorts sleep{world};
  PanicPort panic{world};
  BootTimer timer{world};
  const std::array<BusDevice*, 11> devices = {
      &ioapic, &pic,   &pic.slave_ports(), &pic.trigger_ports(), &pit, &i8042, &serial, &i8042.command_port(),
      &sleep,  &panic, &pit.speaker_port()};
  for (; input.size() >= sizeof(Access); input = input.subspan(sizeof(Access))) {
    Access access{};
    std::memcpy(&access, input.data(), sizeof access);
    const std::size_t width = std::size_t{1} << (access.width % 4);
    const auto data = std::as_writable_bytes(std::span{access.value}).first(width);
    BusDevice& device = *devices.at(access.kind % devices.size());
    switch (access.kind / 16) {
      case 0:
        device.read(access.place, data);
        break;
      case 1:
        world.now += std::uint64_t{access.place} << (access.width % 40);
        if (world.alarm && *world.alarm <= world.now) pit.on_timer();
        break;
      case 2:
        ioapic.set_pin(access.place, (access.value[0] & 1) != 0);
        ioapic.end_of_interrupt(access.value[1]);
        break;
      case 3:
        must(serial.offer(data) <= data.size());
        output.consume(access.place);
        static_cast<void>(i8042.press_ctrl_alt_del());
        timer.write(access.place, data);
        break;
      default:
        device.write(access.place, data);
        break;
    }
  }
  survive_round_trip(ioapic);
  survive_round_trip(pic);
  survive_round_trip(i8042);
  survive_round_trip(serial);
  survive_round_trip(sleep);
  survive_round_trip(pit);
}

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  mayfly::play({data, size});
  return 0;
}
