#pragma once

#include "vmm/io/event_loop.h"

namespace mayfly::testing {

/// Serves the loop, whose thread this is, until `reached`, which is looked at after every round: whoever makes it true
/// from another thread calls EventLoop::wake().
template <typename Reached>
void run_until(EventLoop& loop, Reached reached) {
  while (!reached()) ensure(loop.run_once().has_value(), "the ring broke");
}

}  // namespace mayfly::testing
