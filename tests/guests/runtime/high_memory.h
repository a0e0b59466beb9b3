#pragma once

#include <cstdint>

namespace guest {

/// Maps the addresses from 4 GiB to kHighMemoryEnd one to one, in 2 MiB pages, so that level 3 can reach RAM there.
void map_high_memory();

inline constexpr std::uint64_t kHighMemoryEnd = 16ULL << 30U;

}  // namespace guest
