#include "snapshot/copy_bound.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mayfly {
namespace {

/// A machine that was held back goes on when this much of the bound is free, so that it does more than one step.
constexpr std::uint64_t kFreeShare = 4;
/// So near to the bound it is held back: else a guest that stays there would have all pages counted again and again.
constexpr std::uint64_t kNearShare = 16;

/// While it is held back, all that is yet to be written is counted so often: a number of times that does not grow with it.
constexpr std::uint64_t kCountEvery = std::uint64_t{4} << 20;
constexpr std::uint64_t kCountShare = 16;

/// Of all threads, also those of the kernel that do this process's I/O. A write to a page that is held is one; a major one
/// where it was swapped out, or tried again.
std::uint64_t faults_so_far() {
  rusage usage{};
  (void)::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_minflt + usage.ru_majflt);
}

}  // namespace

CopyBound::CopyBound(const GuestMemory& memory, std::uint64_t bytes, HoldBack hold_back, OwnedFd pagemap) noexcept
    : memory_(&memory),
      bytes_(bytes),
      hold_back_(std::move(hold_back)),
      pagemap_(std::move(pagemap)),
      faults_(faults_so_far()) {}

Result<CopyBound> CopyBound::create(const GuestMemory& memory, std::uint64_t bytes, HoldBack hold_back) {
  auto pagemap = open_pagemap();
  if (!pagemap) return propagate(pagemap);
  return CopyBound{memory, bytes, std::move(hold_back), std::move(*pagemap)};
}

int CopyBound::count(std::uint64_t offset) {
  const std::uint64_t faults = faults_so_far();  // before: what comes meanwhile counts twice
  const auto sharing = sharing_of(pagemap_, ram_from(*memory_, offset));
  if (!sharing) return EIO;
  counted_ = sharing->own;
  counted_at_ = offset;
  faults_ = faults;
  return 0;
}

void CopyBound::end() {
  if (std::exchange(holds_, false)) hold_back_(false);
}

int CopyBound::look(std::uint64_t offset) {
  if (holds_) {
    // Nothing is copied meanwhile, so what is yet to be written has less only when some of it was.
    if (offset - counted_at_ < std::max(kCountEvery, (memory_->size() - counted_at_) / kCountShare)) return 0;
    if (const int failure = count(offset); failure != 0) return failure;
    if (counted_ > bytes_ - bytes_ / kFreeShare) return 0;
  } else {
    // A fault copies 4 KiB: the kernel splits a larger page that is written to while another process has it.
    if (counted_ + (faults_so_far() - faults_) * kGuestPageSize <= bytes_) return 0;
    if (const int failure = count(offset); failure != 0) return failure;
    if (counted_ <= bytes_ - bytes_ / kNearShare) return 0;
  }
  holds_ = !holds_;
  hold_back_(holds_);
  return 0;
}

}  // namespace mayfly
