#include "tests/host-agent/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace mayfly::host_agent {

std::size_t Histogram::bucket_of(std::uint64_t us) {
  const std::uint64_t value = std::min(us, (std::uint64_t{1} << kValueBits) - 1);
  if (value < kSteps) return value;
  // The highest bit says which power of two, the four behind it which part of that.
  const auto shift = static_cast<unsigned>(std::bit_width(value)) - 1 - kStepBits;
  return (shift + 1) * kSteps + ((value >> shift) & (kSteps - 1));
}

std::uint64_t Histogram::start_of(std::size_t bucket) {
  if (bucket < kSteps) return bucket;
  const std::size_t shift = bucket / kSteps - 1;
  return (kSteps + bucket % kSteps) << shift;
}

void Histogram::add(std::chrono::nanoseconds time) {
  const Microseconds us{static_cast<std::uint64_t>(std::max<std::int64_t>(time.count() / 1000, 0))};
  ++counts_.at(bucket_of(us.count()));
  ++count_;
  longest_ = std::max(longest_, us);
}

Histogram::Microseconds Histogram::quantile(double fraction) const {
  const auto wanted = static_cast<std::uint64_t>(std::ceil(fraction * static_cast<double>(count_)));
  std::uint64_t seen = 0;
  for (std::size_t bucket = 0; bucket < counts_.size(); ++bucket) {
    seen += counts_.at(bucket);
    if (seen > 0 && seen >= wanted) return Microseconds{(start_of(bucket) + start_of(bucket + 1)) / 2};
  }
  return Microseconds{0};
}

void Histogram::write(JsonWriter& json) const {
  json.begin_object();
  json.field("count", count_);
  for (const auto& [name, fraction] : {std::pair{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}})
    json.field(name, quantile(fraction).count());
  json.field("longest", longest_.count());
  json.key("buckets");
  json.begin_array();
  for (std::size_t bucket = 0; bucket < counts_.size(); ++bucket) {
    if (counts_.at(bucket) == 0) continue;
    json.begin_object();
    json.field("from", start_of(bucket));
    json.field("to", start_of(bucket + 1));
    json.field("count", counts_.at(bucket));
    json.end_object();
  }
  json.end_array();
  json.end_object();
}

}  // namespace mayfly::host_agent
