#pragma once

#include "vmm/base/owned_fd.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

/// The files whose content guest memory is: a base, and over it the parts that other files have.
///
/// Guest memory lies in a file region after region, so a byte has the same offset in all of them.
namespace mayfly {

struct MemoryLayers {
  /// Whole pages that another file shows than the base.
  struct Part {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    std::size_t file = 0;
    [[nodiscard]] std::uint64_t end() const noexcept { return offset + length; }
    friend bool operator==(const Part&, const Part&) = default;
  };

  std::vector<std::shared_ptr<OwnedFd>> files{};  ///< The base first.
  std::vector<Part> parts{};                      ///< Ascending, without overlaps.

  /// The file that shows the byte at `offset`.
  [[nodiscard]] const OwnedFd& file_at(std::uint64_t offset) const noexcept;
  /// The parts of [offset, offset + length), cut to it.
  [[nodiscard]] std::vector<Part> parts_within(std::uint64_t offset, std::uint64_t length) const;
};

/// Parts that are mapped; each makes at most two mappings more, and a process may have 65530 (vm.max_map_count). Where
/// there are more parts, the shortest are copied, into pages that no other process shares. To map a part costs about as
/// much as to copy one page, so there is no other reason to copy.
inline constexpr std::size_t kMostMappedParts = 16'384;

/// Which parts are mapped: the longest, and of those that are as long as each other the first.
class MappedParts {
 public:
  MappedParts(std::span<const MemoryLayers::Part> parts, std::size_t most);
  /// In the parts' order.
  [[nodiscard]] bool includes_next(const MemoryLayers::Part& part);

 private:
  std::uint64_t length_ = 0;  // longer ones are
  std::size_t also_ = 0;      // so many of this length are, too
};

}  // namespace mayfly
