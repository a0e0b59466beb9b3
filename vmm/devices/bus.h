#pragma once

#include "vmm/base/error.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// The guest's two address buses (I/O ports and MMIO): which device answers an access.
///
///   Bus ports;
///   ports.attach("serial", 0x3F8, 8, serial);   // before any vCPU runs
///   if (!ports.write(0x3F8, data)) ...           // nobody there: the caller counts it
namespace mayfly {

/// A device that answers on a bus. Called by vCPU threads, by several at once: a device takes its own lock.
class BusDevice {
 public:
  BusDevice() = default;
  BusDevice(const BusDevice&) = delete;
  BusDevice& operator=(const BusDevice&) = delete;
  virtual ~BusDevice() = default;
  /// A load of 1, 2, 4 or 8 bytes at `offset` from the device's base: fills all of `data`.
  virtual void read(std::uint64_t offset, std::span<std::byte> data) = 0;
  /// A store of 1, 2, 4 or 8 bytes.
  virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

/// Address ranges and their devices. Filled before the vCPUs run and constant from then on, hence without a lock;
/// look-up is a binary search.
class Bus {
 public:
  /// Gives [base, base + length) to `device`, which must outlive the bus. Errors: empty, wrapping or overlapping range.
  [[nodiscard]] Status attach(std::string_view name, std::uint64_t base, std::uint64_t length, BusDevice& device);

  /// Routes an access; false, with `data` all ones (what an empty bus floats to), where no device has the whole range.
  bool read(std::uint64_t address, std::span<std::byte> data) const;
  /// Routes an access; false where no device has the whole range.
  bool write(std::uint64_t address, std::span<const std::byte> data) const;

 private:
  struct Range {
    std::uint64_t base;
    std::uint64_t length;
    BusDevice* device;
    std::string name;
  };
  [[nodiscard]] const Range* find(std::uint64_t address, std::size_t length) const noexcept;

  std::vector<Range> ranges_;  // ascending by base, disjoint
};

}  // namespace mayfly
