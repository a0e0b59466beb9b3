#pragma once

#include "api/client/top/sample.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// What two samples of a machine say together: how much it used in between. Pure.
namespace mayfly::top {

/// A machine as it is shown. Unknown values are empty: before a second sample, without an answer or a right.
struct Row {
  std::string id{};
  pid_t pid = 0;
  std::string state{};                  ///< May have any bytes.
  std::optional<double> cpu_percent{};  ///< 100: one processor's time.
  std::optional<double> private_bytes{};
  std::optional<double> shared_bytes{};
  std::optional<double> read_rate{};  ///< Of drives and networks in bytes a second.
  std::optional<double> write_rate{};
  std::optional<double> rx_rate{};
  std::optional<double> tx_rate{};
  std::optional<double> exit_rate{};  ///< Exits a second.
};

/// `before`: of an earlier moment; null where there is none. `ticks_per_second`: of ProcessTimes.
[[nodiscard]] Row row_of(const Sample* before, const Sample& now, double ticks_per_second);

/// A row for each of `now`, which finds its own process in `before`; both are sorted by processes.
[[nodiscard]] std::vector<Row> rows_of(std::span<const Sample> before, std::span<const Sample> now,
                                       double ticks_per_second);

}  // namespace mayfly::top
