// What a state file can hold: any bytes, in a frame whose lengths and checksums are made right. What decodes is put
// into the platform's devices and a drive's transport and queue over a small guest, which then do a little work and are
// saved again. Whatever it is, decoding neither crashes nor takes memory without bound, and what was restored once is
// the same when it is restored again.

#include "snapshot/describe.h"
#include "snapshot/state_file.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/platform_surroundings.h"
#include "tests/support/run_until.h"
#include "tests/unit/snapshot/state_file_parts.h"
#include "tests/unit/virtio/fake_driver.h"
#include "virtio/block/block_device.h"
#include "virtio/mmio_transport.h"
#include "vmm/boot/layout.h"
#include "vmm/devices/acpi_sleep_ports.h"
#include "vmm/devices/dual_pic.h"
#include "vmm/devices/i8042.h"
#include "vmm/devices/ioapic.h"
#include "vmm/devices/pit.h"
#include "vmm/devices/serial.h"
#include "vmm/devices/serial_output_buffer.h"

#include <sys/mman.h>

namespace mayfly {
namespace {

using testing::FakeMemory;

constexpr std::uint64_t kImageBytes = 64 * 1024;

/// Restored once more from its own state, a device is the same.
template <typename Device>
void survive_round_trip(Device& device) {
  const auto state = device.state();
  device.restore(state);
  must(device.state() == state);
}

/// Where a device's registers are.
struct Registers {
  std::uint64_t end;
  std::uint64_t stride = 1;
  std::size_t width = 1;
};

/// Every register once, as a guest reads it and as it writes it.
void use(BusDevice& device, const Registers& registers) {
  std::array<std::byte, 4> word{};
  for (std::uint64_t at = 0; at < registers.end; at += registers.stride) {
    device.read(at, std::span{word}.first(registers.width));
    device.write(at, std::span{word}.first(registers.width));
  }
}

void restore_platform(const PlatformState& state) {
  PlatformSurroundings world;
  world.now = std::uint64_t{1} << 40;
  UartMetrics metrics;
  Ioapic ioapic{world};
  DualPic pic;
  Pit pit{InterruptLine{ioapic, layout::kTimerGsi}, world, world};
  I8042 i8042{InterruptLine{ioapic, layout::kKeyboardGsi}, world};
  SerialOutputBuffer output{TokenBucketConfig{.size = 100, .refill_time_ms = 10}, world, metrics, world};
  Serial serial{InterruptLine{ioapic, layout::kSerialGsi}, output, world};
  AcpiSleepPorts sleep{world};
  ioapic.restore(state.ioapic);
  pic.restore(state.pic);
  pit.restore(state.pit);
  i8042.restore(state.i8042);
  serial.restore(state.serial);
  sleep.restore(state.sleep_ports);
  const auto survive = [&] {
    survive_round_trip(ioapic);
    survive_round_trip(pic);
    survive_round_trip(pit);
    survive_round_trip(i8042);
    survive_round_trip(serial);
    survive_round_trip(sleep);
  };
  survive();
  for (unsigned pin = 0; pin < Ioapic::kPins; ++pin) ioapic.set_pin(pin, pin % 2 == 0);
  ioapic.end_of_interrupt(0x30);
  must(serial.offer(std::array<std::byte, 4>{}) <= 4);
  static_cast<void>(i8042.press_ctrl_alt_del());
  for (int i = 0; i < 4; ++i) {
    world.now = world.alarm.value_or(world.now) + 1;
    pit.on_timer();
  }
  use(ioapic, {.end = 0x50, .stride = 16, .width = 4});
  use(pic, {.end = kPicPortCount});
  use(pic.slave_ports(), {.end = kPicPortCount});
  use(pit, {.end = kPitPortCount});
  use(pit.speaker_port(), {.end = 1});
  use(serial, {.end = layout::kSerialPorts});
  use(i8042, {.end = 1});
  survive();
}

/// A drive on a ring of its own, since what it leaves there ends with the ring.
class Drive {
 public:
  explicit Drive(const FakeMemory& ram) : ram_(ram) {}
  ~Drive() { loop_->close(); }
  Drive(const Drive&) = delete;
  Drive& operator=(const Drive&) = delete;

  void play(DriveState state) {
    // What refuses at once, and is not to hide the rest.
    state.device.image.size_bytes = kImageBytes;
    state.device.features &= device_->features();
    if (!device_->restore(state.device, BlockDevice::Images::MayDiffer)) return;
    if (!transport_->restore(state.transport)) return;
    transport_->start();
    // Only read: a write that stops the device would wait for the loop, on its own thread.
    std::array<std::byte, 4> word{};
    for (std::uint64_t at = 0; at < kMmioWindowSize; at += word.size()) transport_->read(at, word);
    transport_->drain([] {});
    testing::run_until(*loop_, [this] { return transport_->is_drained(); });
    (void)transport_->state();
    (void)device_->state();
    transport_->undrain();
  }

 private:
  static DriveConfig make_config(const OwnedFd& file) {
    must(::ftruncate(file.get(), kImageBytes) == 0);
    return {.drive_id = "fuzz", .path_on_host = fmt::format("/proc/self/fd/{}", file.get())};
  }

  const FakeMemory& ram_;
  Metrics metrics_;
  Log log_ = Log{"fuzz"};
  bool silent_ = log_.configure({.level = LogLevel::Off}).has_value();
  OwnedFd file_{::memfd_create("image", MFD_CLOEXEC)};
  DriveConfig config_ = make_config(file_);
  std::unique_ptr<EventLoop> loop_ = must(EventLoop::create());
  VirtioService service_{*loop_};
  std::unique_ptr<BlockDevice> device_ =
      must(BlockDevice::create(config_, must(DiskImage::open(config_)), *loop_, metrics_.block, log_));
  std::unique_ptr<MmioTransport> transport_ = must(MmioTransport::create(
      *device_, {.memory = ram_.memory(), .service = service_, .log = log_, .metrics = metrics_.virtio}));
};

void play(std::span<const std::uint8_t> input) {
  static const FakeMemory ram{1};
  const auto given = std::as_bytes(input);
  std::vector<std::byte> file{given.begin(), given.end()};
  static_cast<void>(decode_snapshot(file));
  testing::repair_state_file(file);
  const auto snapshot = decode_snapshot(file);
  if (!snapshot) return;
  must(decode_snapshot(encode_snapshot(*snapshot)).has_value());
  must(!describe_snapshot(*snapshot).empty());
  restore_platform(snapshot->platform);
  if (snapshot->drives.empty()) return;
  const auto bytes = ram.bytes({0}, ram.end());
  for (std::size_t i = 0; i < bytes.size(); i += file.size())
    std::memcpy(&bytes[i], file.data(), std::min(file.size(), bytes.size() - i));
  Drive{ram}.play(snapshot->drives.front());
}

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  mayfly::play({data, size});
  return 0;
}
