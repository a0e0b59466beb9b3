#include "snapshot/copy_bound.h"

#include <sys/resource.h>

#include <cerrno>
#include <utility>

namespace mayfly {
namespace {

/// A machine that was held back goes on when this much of the bound is free, so that it does more than one step.
constexpr std::uint64_t kFreeShare = 4;
/// While it is held back nothing is copied, so a count is only as good as what was written since.
constexpr std::uint64_t kCountEvery = std::uint64_t{16} << 20;

/// Of all threads, also those of the kernel that do this process's I/O. A write to a page that is held is one.
std::uint64_t faults_so_far() {
  rusage usage{};
  (void)::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_minflt);
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

int CopyBound::look(std::uint64_t offset) {
  if (holds_) {
    if (offset - counted_at_ < kCountEvery && offset < memory_->size()) return 0;
    if (const int failure = count(offset); failure != 0) return failure;
    if (counted_ > bytes_ - bytes_ / kFreeShare) return 0;
  } else {
    // A fault copies 4 KiB: the kernel splits a larger page that is written to while another process has it.
    if (counted_ + (faults_so_far() - faults_) * kGuestPageSize <= bytes_) return 0;
    if (const int failure = count(offset); failure != 0) return failure;
    if (counted_ <= bytes_) return 0;
  }
  holds_ = !holds_;
  hold_back_(holds_);
  return 0;
}

}  // namespace mayfly
