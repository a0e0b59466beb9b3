#pragma once

#include "snapshot/memory_file.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace mayfly {

inline constexpr std::uint64_t kPage = kGuestPageSize;

/// `count` pages from page `first` on.
inline PageRange pages(std::uint64_t first, std::uint64_t count = 1) { return {first * kPage, count * kPage}; }

/// RAM without what a memory file has its label in.
template <typename Bytes>
Bytes without_label(Bytes ram) {
  std::fill_n(ram.begin() + kLabel.offset, kLabel.length, std::byte{0});
  return ram;
}

}  // namespace mayfly
