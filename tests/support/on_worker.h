#pragma once

#include "tests/support/run_until.h"

#include <atomic>
#include <optional>
#include <thread>
#include <utility>

namespace mayfly::testing {

/// What `work` returns, done on a thread of its own while this one, the loop's, serves it.
template <typename Work>
auto on_worker(EventLoop& loop, Work work) {
  std::optional<decltype(work())> result;
  std::atomic<bool> done{false};
  std::thread thread{[&] {
    result.emplace(work());
    done = true;
    loop.wake();
  }};
  run_until(loop, [&] { return done.load(); });
  thread.join();
  return std::move(*result);
}

}  // namespace mayfly::testing
