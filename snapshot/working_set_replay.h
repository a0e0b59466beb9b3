#pragma once

#include "snapshot/pages.h"
#include "vmm/io/event_loop.h"
#include "vmm/memory/guest_memory.h"

#include <cstddef>
#include <span>
#include <vector>

/// Brings the pages of a working set in, while the guest runs.
///
///   WorkingSetReplay replay{loop, memory, set.ranges};
///   replay.begin();
///
/// Through the ring: first all of it is asked from the disk, in the ranges' order and as much at once as the disk
/// takes, then mapped range by range, so that the guest finds pages instead of faults. Meanwhile a fault reads its own
/// page and none around it, which the disk has no time for. Where a sample of pages is in the page cache, as after
/// another clone, nothing is done: the guest's own faults are as fast, and take no other CPU.
namespace mayfly {

/// All members are for the loop's thread; it lives until the loop is closed, as the memory does.
class WorkingSetReplay final : Operation {
 public:
  /// `memory` is a mapped file's; the ranges are within it.
  WorkingSetReplay(EventLoop& loop, const GuestMemory& memory, std::span<const PageRange> ranges);
  void begin();

 private:
  void on_complete(int result, bool more) noexcept override;
  /// Submits some of what is left, the last of which tells its end: the others are about as far then.
  void next_step();
  void read_around(bool wanted) const;
  [[nodiscard]] bool is_in_page_cache() const;

  EventLoop& loop_;
  const GuestMemory& memory_;
  std::vector<PageRange> ranges_;  // each in one region
  enum class Step { Read, Map, Done } step_ = Step::Read;
  std::size_t next_ = 0;
};

}  // namespace mayfly
