#pragma once

#include "api/http_framer.h"
#include "tests/host-agent/clone_pool.h"
#include "tests/host-agent/hand_over.h"
#include "tests/host-agent/live_source.h"
#include "tests/host-agent/memory_use.h"
#include "tests/host-agent/statistics.h"

#include <chrono>
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
  /// The same, for whoever watches: GET / is a page that draws what GET /stats says.
  void serve_status(const HttpMessage& request, int client);
  /// As JSON.
  [[nodiscard]] std::string stats();

 private:
  using Clock = std::chrono::steady_clock;

  void send_stats(int client);
  void refuse(int client);
  void excuse(Silence silence, int client);

  ClonePool& pool_;
  const Options options_;
  Statistics statistics_;
  MemoryGauge memory_;
};

}  // namespace mayfly::host_agent
