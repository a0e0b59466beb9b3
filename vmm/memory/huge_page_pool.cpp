#include "vmm/memory/huge_page_pool.h"

#include "vmm/base/files.h"

#include <charconv>

namespace mayfly {
namespace {

constexpr std::string_view kInstead = "or use huge_pages None or Transparent";

std::optional<std::uint64_t> read_number(const std::string& path) {
  constexpr std::size_t kLongest = 32;
  const auto text = read_file(path, path, kLongest);
  std::uint64_t number = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), number).ec != std::errc{})
    return std::nullopt;
  return number;
}

}  // namespace

std::optional<HugePagePool> read_huge_page_pool(const std::string& directory) {
  const auto total = read_number(directory + "/nr_hugepages");
  const auto free = read_number(directory + "/free_hugepages");
  const auto reserved = read_number(directory + "/resv_hugepages");
  if (!total || !free || !reserved) return std::nullopt;
  return HugePagePool{.total = *total, .free = *free, .reserved = *reserved};
}

std::unexpected<Error> huge_page_shortage(std::uint64_t size_mib, const std::optional<HugePagePool>& pool) {
  const std::uint64_t needed = size_mib * 1024 * 1024 / kHugePageSize;
  if (!pool)
    return fail(ErrorKind::System,
                "huge_pages is 2M: {} MiB of memory need {} pages of 2 MiB, and the host's pool has fewer (how many "
                "cannot be read in here); raise the number in {}/nr_hugepages on the host, {}",
                size_mib, needed, kHugePagePoolPath, kInstead);
  if (pool->available() >= needed)
    return fail(ErrorKind::System,
                "huge_pages is 2M: {} MiB of memory need {} pages of 2 MiB, and the host's pool has {} to give, so "
                "another limit stands against it: hugetlb.2MB.rsvd.max of the control group, cpuset.mems, or "
                "ulimit -v; raise that, {}",
                size_mib, needed, pool->available(), kInstead);
  return fail(ErrorKind::System,
              "huge_pages is 2M: {} MiB of memory need {} pages of 2 MiB, and the host's pool has {} to give ({} in "
              "all, the others taken by or promised to other processes); get more by echo {} > {}/nr_hugepages, {}",
              size_mib, needed, pool->available(), pool->total, pool->total + needed - pool->available(),
              kHugePagePoolPath, kInstead);
}

}  // namespace mayfly
