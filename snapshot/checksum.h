#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

/// XXH3 with 64 bits: finds accidents (a flipped bit, a torn write), not forgery.
namespace mayfly {

[[nodiscard]] std::uint64_t checksum(std::span<const std::byte> bytes) noexcept;

}  // namespace mayfly
