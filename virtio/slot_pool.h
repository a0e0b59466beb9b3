#pragma once

#include "vmm/base/error.h"
#include "vmm/base/mapping.h"

#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <utility>

namespace mayfly {

/// Room for the requests that a queue has in flight: nothing is allocated for one.
///
///   if (!pool.reserve()) return fail_errno(...);
///   Slot* slot = pool.take(*this);        // null: all are in use
///   ...
///   pool.give_back(*slot);
///
/// A Slot is made when a depth is reached that was not before, and stays: pages, and slots on them, come with the depth
/// that a guest really uses. The one that was used last is taken next, while its memory is warm. A Slot has a member
/// `Slot* next`, which is its user's while it is taken.
///
/// Not locked: under the device's lock.
template <typename Slot, std::size_t kMost>
class SlotPool {
 public:
  SlotPool() = default;
  SlotPool(const SlotPool&) = delete;
  SlotPool& operator=(const SlotPool&) = delete;
  ~SlotPool() { std::ranges::destroy(made()); }

  /// Once, before anything else. False: no address space; errno says why.
  [[nodiscard]] bool reserve() noexcept {
    constexpr std::size_t kBytes = sizeof(Slot) * kMost;
    memory_ = Mapping{
        ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), kBytes};
    if (!memory_) return false;
    // Where the host gives huge pages unasked, the first slot would take 2 MiB, and 0.3 ms to clear them. EINVAL: it has none.
    (void)::madvise(memory_.address(), kBytes, MADV_NOHUGEPAGE);
    return true;
  }

  /// `owner`: what a Slot is made of. Null where all are in use.
  template <typename Owner>
  [[nodiscard]] Slot* take(Owner& owner) noexcept {
    Slot* slot = free_;
    if (slot != nullptr) {
      free_ = slot->next;
    } else {
      if (made_ == kMost) return nullptr;
      slot = ::new (memory_.bytes().data() + sizeof(Slot) * made_) Slot{owner};
      ++made_;
    }
    ++in_use_;
    return slot;
  }
  void give_back(Slot& slot) noexcept {
    slot.next = std::exchange(free_, &slot);
    --in_use_;
  }

  [[nodiscard]] std::size_t in_use() const noexcept { return in_use_; }
  /// All that were made, in use or not.
  [[nodiscard]] std::span<Slot> made() const noexcept { return {static_cast<Slot*>(memory_.address()), made_}; }
  /// Below kMost; another slot's is another.
  [[nodiscard]] std::size_t index_of(const Slot& slot) const noexcept {
    return static_cast<std::size_t>(&slot - static_cast<const Slot*>(memory_.address()));
  }

 private:
  Mapping memory_;
  std::size_t made_ = 0;
  std::size_t in_use_ = 0;
  Slot* free_ = nullptr;
};

}  // namespace mayfly
