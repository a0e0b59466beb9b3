#include "vmm/memory/memory_layers.h"

#include <algorithm>
#include <functional>
#include <iterator>

namespace mayfly {

const OwnedFd& MemoryLayers::file_at(std::uint64_t offset) const noexcept {
  const auto behind = std::ranges::upper_bound(parts, offset, {}, &Part::offset);
  const bool is_base = behind == parts.begin() || std::prev(behind)->end() <= offset;
  return *files[is_base ? 0 : std::prev(behind)->file];
}

std::vector<MemoryLayers::Part> MemoryLayers::parts_within(std::uint64_t offset, std::uint64_t length) const {
  std::vector<Part> within;
  for (const Part& part : parts) {
    const std::uint64_t begin = std::max(part.offset, offset);
    const std::uint64_t end = std::min(part.end(), offset + length);
    if (begin < end) within.push_back({.offset = begin, .length = end - begin, .file = part.file});
  }
  return within;
}

MappedParts::MappedParts(std::span<const MemoryLayers::Part> parts, std::size_t most) {
  if (parts.size() <= most) return;
  std::vector<std::uint64_t> lengths;
  lengths.reserve(parts.size());
  for (const MemoryLayers::Part& part : parts) lengths.push_back(part.length);
  // The longest of those that are too many.
  const auto first_copied = lengths.begin() + static_cast<std::ptrdiff_t>(most);
  std::ranges::nth_element(lengths, first_copied, std::greater{});
  length_ = *first_copied;
  also_ = static_cast<std::size_t>(std::count(lengths.begin(), first_copied, length_));
}

bool MappedParts::includes_next(const MemoryLayers::Part& part) {
  if (part.length != length_) return part.length > length_;
  if (also_ == 0) return false;
  --also_;
  return true;
}

}  // namespace mayfly
