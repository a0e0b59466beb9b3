#include "vmm/devices/bus.h"

#include <algorithm>

namespace mayfly {

Status Bus::attach(std::string_view name, std::uint64_t base, std::uint64_t length, BusDevice& device) {
  if (length == 0 || base + (length - 1) < base)
    return fail(ErrorKind::InvalidArgument, "{}: a bus range of {} bytes at {:#x} is empty or wraps", name, length,
                base);
  const auto next = std::ranges::upper_bound(ranges_, base, {}, &Range::base);
  if (next != ranges_.end() && next->base - base < length)
    return fail(ErrorKind::InvalidArgument, "{}: {} bytes at {:#x} overlap {} at {:#x}", name, length, base, next->name,
                next->base);
  if (next != ranges_.begin()) {
    const Range& previous = *std::prev(next);
    if (base - previous.base < previous.length)
      return fail(ErrorKind::InvalidArgument, "{}: {} bytes at {:#x} overlap {} at {:#x}", name, length, base,
                  previous.name, previous.base);
  }
  ranges_.insert(next, Range{base, length, &device, std::string{name}});
  return {};
}

const Bus::Range* Bus::find(std::uint64_t address, std::size_t length) const noexcept {
  const auto next = std::ranges::upper_bound(ranges_, address, {}, &Range::base);
  if (next == ranges_.begin()) return nullptr;
  const Range& range = *std::prev(next);
  const std::uint64_t offset = address - range.base;
  return offset < range.length && length <= range.length - offset ? &range : nullptr;
}

bool Bus::read(std::uint64_t address, std::span<std::byte> data) const {
  const Range* range = find(address, data.size());
  if (range == nullptr) {
    std::ranges::fill(data, std::byte{0xFF});
    return false;
  }
  range->device->read(address - range->base, data);
  return true;
}

bool Bus::write(std::uint64_t address, std::span<const std::byte> data) const {
  const Range* range = find(address, data.size());
  if (range == nullptr) return false;
  range->device->write(address - range->base, data);
  return true;
}

}  // namespace mayfly
