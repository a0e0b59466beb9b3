#pragma once

#include "snapshot/working_set.h"
#include "vmm/io/event_loop.h"
#include "vmm/memory/guest_memory.h"

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

/// Brings the pages of a working set in.
///
///   WorkingSetReplay replay{loop, memory, set};
///   replay.copy_ahead(...);   // on the first vCPU's thread, before it runs
///   replay.begin();           // while the guest runs
///
/// Through the ring: first all of it is asked from the disk, in the ranges' order and as much at once as the disk
/// takes, then mapped range by range, so that the guest finds pages instead of faults. Meanwhile a fault reads its own
/// page and none around it, which the disk has no time for.
///
/// Where a sample of pages is in the page cache, as after another clone, none of that is done: the guest's own faults are as
/// fast, and take no other CPU. But the pages that it will change are copied before its first vCPU runs: a guest that has a page mapped to
/// read it, and then writes to it, pays for two faults.
namespace mayfly {

/// All members are for the loop's thread, but copy_ahead(); it lives until the loop is closed, as the memory does.
class WorkingSetReplay final : Operation {
 public:
  /// Looks for the pages in the page cache. `memory` is a mapped file's; the set's ranges are within it.
  WorkingSetReplay(EventLoop& loop, const GuestMemory& memory, const WorkingSet& set);
  void begin();
  /// Makes the pages that the guest will change this process's own, where they were in the page cache at the load. Any
  /// thread, before begin() or beside it. Ends early, and for good, once `enough` says so.
  void copy_ahead(const std::function<bool()>& enough) const;

 private:
  void on_complete(int result, bool more) noexcept override;
  /// Submits some of what is left, the last of which tells its end: the others are about as far then.
  void next_step();
  void read_around(bool wanted) const;
  [[nodiscard]] bool is_in_page_cache() const;
  /// In pieces that are in one region.
  [[nodiscard]] std::vector<PageRange> cut(std::span<const PageRange> ranges, std::uint64_t longest) const;

  EventLoop& loop_;
  const GuestMemory& memory_;
  std::vector<PageRange> ranges_;  // each in one region; none once they are seen in the page cache
  bool is_cached_;
  std::vector<PageRange> written_{};  // each in one region; none unless the others are cached
  enum class Step { Read, Map, Done } step_ = Step::Read;
  std::size_t next_ = 0;
};

}  // namespace mayfly
