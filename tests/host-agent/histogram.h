#pragma once

#include "vmm/base/json_writer.h"

#include <array>
#include <chrono>
#include <cstdint>

/// How long things took, in bounded memory: buckets that are a sixteenth of their power of two wide.
///
///   Histogram histogram;
///   histogram.add(end - begin);
///   histogram.quantile(0.99);   // within 7 %
///
/// No thread-affinity; not for two threads at once.
namespace mayfly::host_agent {

class Histogram {
 public:
  using Microseconds = std::chrono::duration<std::uint64_t, std::micro>;

  void add(std::chrono::nanoseconds time);

  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  /// The middle of the bucket below which `fraction` (0 to 1) of the times end; zero without times.
  [[nodiscard]] Microseconds quantile(double fraction) const;
  /// The longest, exactly.
  [[nodiscard]] Microseconds longest() const noexcept { return longest_; }

  /// {"count": 2, "p50": 1300, ..., "buckets": [{"from": 1280, "to": 1344, "count": 2}]}, in microseconds; buckets
  /// without times are left out.
  void write(JsonWriter& json) const;

 private:
  /// The first sixteen buckets are of a microsecond; the last ends at 2^32, over an hour.
  static constexpr unsigned kStepBits = 4;
  static constexpr unsigned kSteps = 1U << kStepBits;
  static constexpr unsigned kValueBits = 32;
  static constexpr unsigned kBuckets = (kValueBits - kStepBits + 1) * kSteps;

  [[nodiscard]] static std::size_t bucket_of(std::uint64_t us);
  [[nodiscard]] static std::uint64_t start_of(std::size_t bucket);

  std::array<std::uint64_t, kBuckets> counts_{};
  std::uint64_t count_ = 0;
  Microseconds longest_{0};
};

}  // namespace mayfly::host_agent
