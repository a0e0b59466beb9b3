#pragma once

#include <cstdint>
#include <optional>

/// Arithmetic on guest addresses that cannot wrap, for values that come out of files.
namespace mayfly {

/// [start, end) in guest-physical space; empty where start == end.
struct AddressRange {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  [[nodiscard]] constexpr std::uint64_t size() const noexcept { return end - start; }
  [[nodiscard]] constexpr bool contains(std::uint64_t address) const noexcept {
    return address >= start && address < end;
  }
  [[nodiscard]] constexpr bool overlaps(const AddressRange& other) const noexcept {
    return start < other.end && other.start < end;
  }
  /// nullopt where start + size is beyond 2^64 - 1.
  [[nodiscard]] static constexpr std::optional<AddressRange> of_size(std::uint64_t start, std::uint64_t size) noexcept {
    if (size > UINT64_MAX - start) return std::nullopt;
    return AddressRange{start, start + size};
  }
};

/// The next multiple of `alignment` (a power of two) at or above `value`; nullopt where there is none.
[[nodiscard]] constexpr std::optional<std::uint64_t> align_up(std::uint64_t value, std::uint64_t alignment) noexcept {
  if (value > UINT64_MAX - (alignment - 1)) return std::nullopt;
  return (value + alignment - 1) & ~(alignment - 1);
}

[[nodiscard]] constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t alignment) noexcept {
  return value & ~(alignment - 1);
}

}  // namespace mayfly
