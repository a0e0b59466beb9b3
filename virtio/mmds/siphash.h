#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace mayfly {

using SipKey = std::array<std::uint8_t, 16>;
using SipTag = std::array<std::uint8_t, 16>;

/// SipHash-2-4 with a result of 128 bits (Aumasson and Bernstein, 2012): who does not know the key can neither foresee
/// nor invert it.
[[nodiscard]] SipTag siphash(const SipKey& key, std::span<const std::uint8_t> message) noexcept;
/// Of a number's eight bytes, the least first.
[[nodiscard]] SipTag siphash(const SipKey& key, std::uint64_t number) noexcept;

}  // namespace mayfly
