#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

namespace mayfly {

/// A value from the begin of a fuzz target's input; what the input lacks is 0.
template <typename T>
T take(std::span<const std::uint8_t>& input) {
  T value{};
  const std::size_t length = std::min(sizeof value, input.size());
  std::memcpy(&value, input.data(), length);
  input = input.subspan(length);
  return value;
}

}  // namespace mayfly
