#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace mayfly {

/// Sees at its first word that most blocks have content. Who may write meanwhile gets either answer, and both were right.
inline bool is_all_zeros(std::span<const std::byte> block) noexcept {
  if (block.empty()) return true;
  std::uint64_t first = 0;
  const std::size_t head = std::min(block.size(), sizeof first);
  std::memcpy(&first, block.data(), head);
  return first == 0 && std::memcmp(block.data(), block.data() + head, block.size() - head) == 0;
}

}  // namespace mayfly
