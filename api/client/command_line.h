#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

/// What the command line of a process named mayfly says of the machine that it started. Any user can write one: nothing
/// of it is trusted.
namespace mayfly {

/// Far beyond what a machine's command line may need.
inline constexpr std::size_t kLongestCommandLine = 128 << 10;

struct StartedMachine {
  std::string id{};                     ///< As --id says, or its default; one that a machine may have.
  std::optional<std::string> socket{};  ///< As the process was told it; none: no API. May have any bytes.
};

/// `text`: words with a zero behind each, as in /proc/PID/cmdline. Empty where it starts no machine, or is longer than
/// kLongestCommandLine.
[[nodiscard]] std::optional<StartedMachine> parse_command_line(std::string_view text);

}  // namespace mayfly
