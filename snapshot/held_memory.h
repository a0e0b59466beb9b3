#pragma once

#include "vmm/base/error.h"
#include "vmm/base/mapping.h"
#include "vmm/memory/guest_memory.h"

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>

/// Guest memory as it was at one moment, while the guest goes on writing to its own.
///
///   auto held = HeldMemory::hold(memory);                     // the vCPUs stand still, nothing is in flight
///   ... the machine runs on ...
///   if (held->copy(slot, offset, length, stop, patience) == 0) write(held->slot(slot).first(length));
///   held->let_go();
///
/// A child process of fork holds it: the kernel copies a page when either side writes to it. The child does one thing: it
/// copies what it is asked for into memory that both share. It has no descriptor, takes no lock and allocates nothing, as
/// another thread may have held any lock when it was made. It ends with its parent. Pieces are asked for in ascending
/// order, and the child drops what lies before the end of the last one, so writes there copy no page any more.
namespace mayfly {

class HeldMemory {
 public:
  /// Room for pieces that are being written.
  static constexpr std::size_t kSlots = 8;
  static constexpr std::size_t kSlotBytes = std::size_t{1} << 20;

  /// Whether memory of this kind can be held. Errors: pages of the host's pool, a page server or a recorder gives pages.
  [[nodiscard]] static Status check(const GuestMemory& memory);
  /// Holds all of it. The loop's thread; the child gets its filter. `memory` outlives this object. Errors: those of
  /// check(); no more processes, or no memory for one.
  [[nodiscard]] static Result<std::shared_ptr<HeldMemory>> hold(const GuestMemory& memory);

  HeldMemory(const HeldMemory&) = delete;
  HeldMemory& operator=(const HeldMemory&) = delete;
  /// As let_go().
  ~HeldMemory();

  /// Where copy() puts it.
  [[nodiscard]] std::span<const std::byte> slot(std::size_t index) const noexcept;
  /// Copies [offset, offset + length) of the memory file's RAM, in one region and at most kSlotBytes, into a slot. Any
  /// thread, one at a time. 0, or the errno of a failure: ECHILD (the child has ended), ECANCELED (the stop), ETIMEDOUT.
  [[nodiscard]] int copy(std::size_t index, std::uint64_t offset, std::uint64_t length, const std::stop_token& stop,
                         std::chrono::milliseconds patience) noexcept;
  /// Ends the child, and waits for that; but not for one that waits for a dead disk's page: that ends with this process.
  void let_go() noexcept;

  /// For tests.
  [[nodiscard]] pid_t child() const noexcept { return child_; }

 private:
  struct Shared;
  HeldMemory(const GuestMemory& memory, Mapping room) noexcept;
  [[nodiscard]] Shared& shared() const noexcept;
  [[nodiscard]] bool has_ended() noexcept;

  const GuestMemory& memory_;
  Mapping room_;  // shared with the child: its orders, then the slots
  pid_t child_ = -1;
};

}  // namespace mayfly
