#include "tests/host-agent/statistics.h"

namespace mayfly::host_agent {

void Statistics::note(End end) {
  const std::scoped_lock lock{mutex_};
  switch (end) {
    case End::Refused:
      ++counts_.refused;
      break;
    case End::Failed:
      ++counts_.failed;
      break;
    case End::Late:
      ++counts_.late;
      break;
    case End::Unasked:
      ++counts_.unasked;
      break;
  }
}

void Statistics::note_answer(const Times& times, bool by_source) {
  const std::scoped_lock lock{mutex_};
  ++counts_.answered;
  if (by_source) ++counts_.answered_by_source;
  whole_.add(times.whole);
  loading_.add(times.loading);
  answering_.add(times.answering);
}

void Statistics::write_counts(JsonWriter& json) const {
  const std::scoped_lock lock{mutex_};
  json.field("uptime_ms", std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin_).count());
  json.key("requests");
  json.begin_object();
  json.field("answered", counts_.answered);
  json.field("refused", counts_.refused);
  json.field("failed", counts_.failed);
  json.field("late", counts_.late);
  json.field("unasked", counts_.unasked);
  json.end_object();
  json.key("answered_by");
  json.begin_object();
  json.field("source", counts_.answered_by_source);
  json.field("clones", counts_.answered - counts_.answered_by_source);
  json.end_object();
}

void Statistics::write_latency(JsonWriter& json) const {
  const std::scoped_lock lock{mutex_};
  json.key("latency_us");
  json.begin_object();
  json.key("whole");
  whole_.write(json);
  json.key("loading");
  loading_.write(json);
  json.key("answering");
  answering_.write(json);
  json.end_object();
}

}  // namespace mayfly::host_agent
