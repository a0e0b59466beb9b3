#pragma once

#include "tests/host-agent/histogram.h"
#include "vmm/base/json_writer.h"

#include <chrono>
#include <cstdint>
#include <mutex>

/// How many requests had which end, and how long answers took.
///
///   Statistics statistics;
///   statistics.note_answer({.whole = 3ms, .loading = 1ms, .answering = 2ms}, /*by_source=*/false);
///   statistics.note(Statistics::End::Late);
///   statistics.write_counts(json);
///
/// On any thread.
namespace mayfly::host_agent {

class Statistics {
 public:
  /// Without the function's answer.
  enum class End {
    Refused,  ///< 503: no clone was free.
    Failed,   ///< 502: the clone could not go on, died or sent no HTTP.
    Late,     ///< 504
    Unasked,  ///< The client hung up.
  };
  struct Times {
    std::chrono::nanoseconds whole;      ///< From the request's last byte to its answer's.
    std::chrono::nanoseconds loading;    ///< Of that: the wait for a clone, and its load or resume.
    std::chrono::nanoseconds answering;  ///< The function's answer, from there on.
  };

  void note(End end);
  void note_answer(const Times& times, bool by_source);
  /// Members of an object: "uptime_ms" (of this), "requests", "answered_by".
  void write_counts(JsonWriter& json) const;
  /// A member: "latency_us".
  void write_latency(JsonWriter& json) const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Counts {
    std::uint64_t answered = 0;
    std::uint64_t answered_by_source = 0;  ///< Of those.
    std::uint64_t refused = 0;
    std::uint64_t failed = 0;
    std::uint64_t late = 0;
    std::uint64_t unasked = 0;
  };

  const Clock::time_point begin_ = Clock::now();
  mutable std::mutex mutex_;
  Counts counts_;
  Histogram whole_;
  Histogram loading_;
  Histogram answering_;
};

}  // namespace mayfly::host_agent
