#pragma once

#include "snapshot/pages.h"

#include <cstdint>

namespace mayfly {

inline constexpr std::uint64_t kPage = kGuestPageSize;

/// `count` pages from page `first` on.
inline PageRange pages(std::uint64_t first, std::uint64_t count = 1) { return {first * kPage, count * kPage}; }

}  // namespace mayfly
