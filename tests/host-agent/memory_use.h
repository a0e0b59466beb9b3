#pragma once

#include "vmm/base/json_writer.h"

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// What processes take of the host's memory, by /proc/PID/smaps_rollup.
///
///   MemoryUse all = memory_of(pool.processes());
namespace mayfly::host_agent {

struct MemoryUse {
  unsigned monitors = 0;          ///< Processes that could be looked at.
  std::uint64_t pss_kib = 0;      ///< A page that N processes share counts as an Nth of a page for each.
  std::uint64_t private_kib = 0;  ///< Pages that nobody shares: what ends with the processes.

  void write(JsonWriter& json) const;
};

/// A file smaps_rollup; none where it is none.
[[nodiscard]] std::optional<MemoryUse> parse_smaps_rollup(std::string_view text);

/// The sum. Processes that have ended, or that we may not look at, are left out. `proc`: a procfs.
[[nodiscard]] MemoryUse memory_of(const std::vector<pid_t>& processes, const std::string& proc = "/proc");

/// The same, measured twice a second at most: the kernel walks all of a process's pages for it, and anybody may ask. On any
/// thread.
class MemoryGauge {
 public:
  /// `processes()` is called where it is measured.
  template <typename Processes>
  [[nodiscard]] MemoryUse measure(const Processes& processes) {
    const std::scoped_lock lock{mutex_};
    const auto now = Clock::now();
    if (!measured_ || now - *measured_ >= kPause) {
      use_ = memory_of(processes());
      measured_ = now;
    }
    return use_;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kPause{500};

  std::mutex mutex_;
  std::optional<Clock::time_point> measured_;
  MemoryUse use_;
};

}  // namespace mayfly::host_agent
