#pragma once

#include "api/client/running.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// What is known of a machine at one moment: by its process, and by its own answers. Two of them make a row (rates.h).
namespace mayfly::top {

using Clock = std::chrono::steady_clock;

/// Of /proc/PID/stat.
struct ProcessTimes {
  std::uint64_t cpu_ticks = 0;    ///< User and system time together, of all threads.
  std::uint64_t start_ticks = 0;  ///< When it began: with its number, who it is.
};

/// Of /proc/PID/smaps_rollup.
struct ProcessMemory {
  std::uint64_t private_kib = 0;  ///< Nobody else has it: what its end gives back.
  std::uint64_t shared_kib = 0;   ///< Others have it mapped, too.
};

/// Of the machine's metrics: totals since it began.
struct Counters {
  std::uint64_t read_bytes = 0;
  std::uint64_t write_bytes = 0;
  std::uint64_t rx_bytes = 0;
  std::uint64_t tx_bytes = 0;
  std::uint64_t exits = 0;  ///< Of vCPUs to the monitor; those that the kernel handles alone, nobody counts.
};

/// A value, and when it was.
template <typename Value>
struct Timed {
  Clock::time_point at{};
  Value value{};
};

struct Sample {
  RunningMachine machine{};
  std::string state{};  ///< As the machine says, or why it does not. May have any bytes.
  std::optional<Timed<ProcessTimes>> times{};
  std::optional<ProcessMemory> memory{};
  std::optional<Timed<Counters>> counters{};  ///< The latest that came, perhaps a while ago.
};

// Each is empty where the text is not what it should be.

[[nodiscard]] std::optional<ProcessTimes> parse_stat(std::string_view text);
[[nodiscard]] std::optional<ProcessMemory> parse_smaps_rollup(std::string_view text);
/// The text that Prometheus reads. A counter that is missing, as in another version, counts as zero.
[[nodiscard]] std::optional<Counters> parse_metrics(std::string_view text);

}  // namespace mayfly::top
