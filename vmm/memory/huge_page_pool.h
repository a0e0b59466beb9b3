#pragma once

#include "vmm/base/error.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// The host's pool of 2 MiB pages, which machines with huge_pages 2M take theirs from.
///
///   if (auto pool = read_huge_page_pool(kHugePagePoolPath)) ... pool->available()
namespace mayfly {

inline constexpr std::uint64_t kHugePageSize = 2 * 1024 * 1024;

/// Where the kernel tells of the pool. Not in a jail, which has no /sys.
inline constexpr std::string_view kHugePagePoolPath = "/sys/kernel/mm/hugepages/hugepages-2048kB";

struct HugePagePool {
  std::uint64_t total = 0;     ///< Pages in the pool, used ones included.
  std::uint64_t free = 0;      ///< Those that nobody has touched.
  std::uint64_t reserved = 0;  ///< Free ones that a process may touch at any time.

  /// Pages that a new machine can have.
  [[nodiscard]] std::uint64_t available() const noexcept { return free > reserved ? free - reserved : 0; }
};

/// The pool as the files of `directory` tell it (kHugePagePoolPath); nullopt where they cannot be read.
[[nodiscard]] std::optional<HugePagePool> read_huge_page_pool(const std::string& directory);

/// Why `size_mib` of guest memory got no huge pages: how many it needs, how many the pool has, what to do.
[[nodiscard]] std::unexpected<Error> huge_page_shortage(std::uint64_t size_mib,
                                                        const std::optional<HugePagePool>& pool);

}  // namespace mayfly
