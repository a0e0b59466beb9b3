#pragma once

#include "snapshot/pages.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"
#include "vmm/memory/guest_memory.h"

#include <cstdint>
#include <functional>

/// A bound on the memory that a guest's writes cost the host while HeldMemory has what was there before: where they cost
/// more, the guest is held back until enough has been written to the file, and given back.
///
///   CopyBound bound{memory, 64 << 20, [&](bool on) { hold_back_vcpus(on); }};
///   ... bound.look(offset) ...               // again and again, while [0, offset) is written or on its way
///
/// A look costs a system call. Only where the faults since the last count could have reached the bound are pages counted,
/// at 8 bytes a page: those that are this process's alone, at and behind `offset`. That is what was copied, and memory that
/// the guest has touched for the first time since. What is done between two looks, and while pages are counted, is above the
/// bound.
namespace mayfly {

class CopyBound {
 public:
  using HoldBack = std::function<void(bool on)>;
  /// `memory` outlives this object. Error: the host does not tell which pages are whose.
  [[nodiscard]] static Result<CopyBound> create(const GuestMemory& memory, std::uint64_t bytes, HoldBack hold_back);
  CopyBound(CopyBound&&) = default;
  CopyBound& operator=(CopyBound&&) = delete;
  CopyBound(const CopyBound&) = delete;
  CopyBound& operator=(const CopyBound&) = delete;
  ~CopyBound() = default;

  /// Any thread, one at a time. 0, or the errno of a failure: the host does not tell.
  [[nodiscard]] int look(std::uint64_t offset);
  /// Nothing is held any more: the guest goes on.
  void end();

 private:
  CopyBound(const GuestMemory& memory, std::uint64_t bytes, HoldBack hold_back, OwnedFd pagemap) noexcept;
  [[nodiscard]] int count(std::uint64_t offset);

  const GuestMemory* memory_;
  std::uint64_t bytes_;
  HoldBack hold_back_;
  OwnedFd pagemap_;
  std::uint64_t counted_ = 0;     // bytes, at the last count,
  std::uint64_t counted_at_ = 0;  // which began at this offset,
  std::uint64_t faults_;          // after so many faults of this process
  bool holds_ = false;
};

}  // namespace mayfly
