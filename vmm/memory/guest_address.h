#pragma once

#include <compare>
#include <cstdint>

namespace mayfly {

/// An address in guest-physical space. Says nothing about whether memory is there.
struct GuestAddress {
  std::uint64_t value = 0;
  friend constexpr auto operator<=>(GuestAddress, GuestAddress) = default;
};

}  // namespace mayfly
