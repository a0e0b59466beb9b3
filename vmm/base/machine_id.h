#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

/// The name by which a machine is known on its host: it is in the command line, where `mayfly ps` reads it.
namespace mayfly {

/// Without --id.
inline constexpr const char* kDefaultMachineId = "anonymous-instance";
/// Without --id, of `mayfly run` and `mayfly restore`.
inline constexpr const char* kDefaultTerminalId = "mayfly-run";
/// Without --api-sock; not of `mayfly run` and `mayfly restore`, which serve no API then.
inline constexpr const char* kDefaultSocket = "/run/mayfly.socket";

/// Whether it has 1 to 64 letters, digits and hyphens, as the dialect's jailer wants.
[[nodiscard]] constexpr bool is_machine_id(std::string_view text) noexcept {
  constexpr std::size_t kLongest = 64;
  return !text.empty() && text.size() <= kLongest && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
  });
}

}  // namespace mayfly
