#pragma once

#include "api/http_framer.h"
#include "tests/host-agent/clone_pool.h"
#include "tests/host-agent/hand_over.h"
#include "tests/host-agent/histogram.h"
#include "tests/host-agent/live_source.h"

#include <chrono>
#include <mutex>
#include <string>

/// What becomes of a request: a clone of its own, the clone's answer, and a word in the statistics.
///
///   Agent agent{pool, {.deadline = 1s}};
///   server.start(threads, [&](const HttpMessage& request, int client) { agent.serve(request, client); });
///
/// GET /stats is the agent's own; all else is the function's.
namespace mayfly::host_agent {

class Agent {
 public:
  struct Options {
    std::chrono::milliseconds deadline{1000};  ///< From the request to the function's answer.
    const LiveSource* source = nullptr;        ///< For the statistics.
  };
  Agent(ClonePool& pool, const Options& options) : pool_(pool), options_(options) {}

  /// On any thread; sends the answer.
  void serve(const HttpMessage& request, int client);

 private:
  using Clock = std::chrono::steady_clock;

  [[nodiscard]] std::string stats() const;
  void refuse(int client);
  void excuse(Silence silence, int client);
  void note_answer(ClonePool::Kind by, Clock::time_point begin, Clock::time_point loaded, Clock::time_point answered);

  ClonePool& pool_;
  const Options options_;
  mutable std::mutex mutex_;
  // How many requests had which end.
  struct Counts {
    std::uint64_t answered = 0;
    std::uint64_t answered_by_source = 0;  ///< Of those.
    std::uint64_t refused = 0;             ///< 503: no clone was free.
    std::uint64_t failed = 0;              ///< 502: the clone could not go on, died or talked nonsense.
    std::uint64_t late = 0;                ///< 504
    std::uint64_t unasked = 0;             ///< The client hung up.
  } counts_;
  Histogram whole_;      // from the request's last byte to its answer's
  Histogram loading_;    // of that: the wait for a clone, and its load or resume
  Histogram answering_;  // the function's answer, from there on
};

}  // namespace mayfly::host_agent
