#pragma once

#include "vmm/devices/bus.h"

#include <cstddef>
#include <cstdint>
#include <span>

/// Devices whose registers are single bytes at I/O ports, as those of the ISA bus are.
///
///   class BootTimer final : public BytePortDevice { ... };
///   ports.attach("boot timer", 0x3F0, 1, boot_timer);
namespace mayfly {

/// What an I/O port without a register floats to.
inline constexpr std::uint8_t kFloatingPort = 0xFF;

/// A device of byte-wide ports. A wider access is what the ISA bus makes of it: byte accesses to successive ports, the
/// lowest first.
class BytePortDevice : public BusDevice {
 public:
  void read(std::uint64_t offset, std::span<std::byte> data) final {
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = std::byte{load(offset + i)};
  }
  void write(std::uint64_t offset, std::span<const std::byte> data) final {
    for (std::size_t i = 0; i < data.size(); ++i) store(offset + i, std::to_integer<std::uint8_t>(data[i]));
  }

  /// One port's value; `port` counts from the device's base. Any value of `port` is safe.
  virtual std::uint8_t load(std::uint64_t port) noexcept = 0;
  /// A byte for one port. Any value of `port` is safe.
  virtual void store(std::uint64_t port, std::uint8_t value) noexcept = 0;
};

/// A second range of ports of a device that lies apart from its base, to attach to the bus on its own: the speaker
/// port of the PIT, the slave of the PIC pair.
class PortWindow final : public BytePortDevice {
 public:
  /// Shows ports [first, first + count) of `device`, which owns the window or outlives it.
  PortWindow(BytePortDevice& device, std::uint64_t first, std::uint64_t count) noexcept
      : device_(device), first_(first), count_(count) {}
  std::uint8_t load(std::uint64_t port) noexcept override {
    return port < count_ ? device_.load(first_ + port) : kFloatingPort;
  }
  void store(std::uint64_t port, std::uint8_t value) noexcept override {
    if (port < count_) device_.store(first_ + port, value);
  }

 private:
  BytePortDevice& device_;
  std::uint64_t first_;
  std::uint64_t count_;
};

}  // namespace mayfly
