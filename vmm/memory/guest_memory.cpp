#include "vmm/memory/guest_memory.h"

#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace mayfly {
namespace {

constexpr std::uint64_t kHugePageSize = 2 * kMiB;

Result<Mapping> map_anonymous(std::uint64_t length, HugePages pages) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (pages == HugePages::Explicit2M) flags |= MAP_HUGETLB | MAP_HUGE_2MB;
  Mapping mapping{::mmap(nullptr, length, PROT_READ | PROT_WRITE, flags, -1, 0), length};
  if (!mapping) {
    if (pages == HugePages::Explicit2M && errno == ENOMEM)
      return fail(ErrorKind::System,
                  "cannot back {} MiB of guest memory with 2M huge pages: the host's pool has not enough free pages; "
                  "raise /proc/sys/vm/nr_hugepages or use huge_pages None or Transparent",
                  length / kMiB);
    return fail_errno(ErrorKind::System, "cannot map {} MiB of guest memory", length / kMiB);
  }
  // Without this, a core dump of the monitor would carry the guest's memory along.
  if (::madvise(mapping.address(), length, MADV_DONTDUMP) != 0)
    return fail_errno(ErrorKind::System, "cannot keep guest memory out of core dumps");
  if (pages == HugePages::Transparent && ::madvise(mapping.address(), length, MADV_HUGEPAGE) != 0)
    return fail_errno(ErrorKind::Unsupported, "the host has no transparent huge pages; use huge_pages None");
  return mapping;
}

Status read_fully(int fd, std::uint64_t offset, std::span<std::byte> target) {
  while (!target.empty()) {
    const ssize_t count = ::pread(fd, target.data(), target.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(ErrorKind::System, "cannot read {} bytes at offset {}", target.size(), offset);
    if (count == 0)
      return fail(ErrorKind::InvalidArgument, "the file ends at offset {}, {} bytes too early", offset, target.size());
    target = target.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

}  // namespace

Status GuestMemory::check(const Options& options) {
  if (options.size_mib == 0 || options.size_mib > kMaximumSizeMib)
    return fail(ErrorKind::InvalidArgument, "mem_size_mib is {}; it must be from 1 to {}", options.size_mib,
                kMaximumSizeMib);
  if (options.pages == HugePages::Explicit2M && options.size_mib * kMiB % kHugePageSize != 0)
    return fail(ErrorKind::InvalidArgument, "mem_size_mib is {}; with huge_pages 2M it must be even", options.size_mib);
  return {};
}

Result<GuestMemory> GuestMemory::create(const Options& options) {
  if (auto checked = check(options); !checked) return propagate(checked);
  const std::uint64_t size = options.size_mib * kMiB;
  const std::uint64_t low = std::min(size, kMmioHoleStart);
  std::vector<Region> regions;
  auto first = map_anonymous(low, options.pages);
  if (!first) return propagate(first);
  regions.push_back({GuestAddress{0}, std::move(*first)});
  if (size > low) {
    auto second = map_anonymous(size - low, options.pages);
    if (!second) return propagate(second);
    regions.push_back({GuestAddress{kMmioHoleEnd}, std::move(*second)});
  }
  return GuestMemory{std::move(regions), options.pages};
}

std::optional<std::span<std::byte>> GuestMemory::bytes(GuestAddress at, std::uint64_t length) const noexcept {
  for (const Region& region : regions_) {
    if (at < region.start || at.value > region.end()) continue;
    const std::uint64_t offset = at.value - region.start.value;
    if (length > region.size() - offset) return std::nullopt;
    return region.mapping.bytes().subspan(offset, length);
  }
  return std::nullopt;
}

bool GuestMemory::write(GuestAddress at, std::span<const std::byte> source) const noexcept {
  const auto target = bytes(at, source.size());
  if (!target) return false;
  if (!source.empty()) std::memcpy(target->data(), source.data(), source.size());
  return true;
}

Status GuestMemory::place_file(int fd, std::uint64_t offset, GuestAddress at, std::uint64_t length) const {
  const auto target = bytes(at, length);
  if (!target)
    return fail(ErrorKind::InvalidArgument, "{} bytes at guest address {:#x} are not in guest memory ({} MiB)", length,
                at.value, size() / kMiB);
  if (length == 0) return {};
  // A mapping beyond a file's end would be accepted here and kill the process at the first touch.
  struct stat status = {};
  if (::fstat(fd, &status) != 0) return fail_errno(ErrorKind::System, "cannot look at the file");
  const auto file_size = static_cast<std::uint64_t>(status.st_size);
  if (offset > file_size || length > file_size - offset)
    return fail(ErrorKind::InvalidArgument, "the file ends at offset {}, before the {} bytes wanted at offset {}",
                file_size, length, offset);

  const std::uint64_t head = std::min(length, (kGuestPageSize - at.value % kGuestPageSize) % kGuestPageSize);
  const std::uint64_t whole = (length - head) / kGuestPageSize * kGuestPageSize;
  const bool aligned = offset % kGuestPageSize == at.value % kGuestPageSize;
  if (!aligned || whole == 0 || pages_ == HugePages::Explicit2M) return read_fully(fd, offset, *target);

  if (auto read = read_fully(fd, offset, target->first(head)); !read) return read;
  std::byte* const start = target->data() + head;
  if (::mmap(start, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
             static_cast<off_t>(offset + head)) == MAP_FAILED)
    return fail_errno(ErrorKind::System, "cannot map {} bytes of the file", whole);
  if (::madvise(start, whole, MADV_DONTDUMP) != 0)
    return fail_errno(ErrorKind::System, "cannot keep guest memory out of core dumps");
  return read_fully(fd, offset + head + whole, target->subspan(head + whole));
}

std::uint64_t GuestMemory::size() const noexcept {
  std::uint64_t sum = 0;
  for (const Region& region : regions_) sum += region.size();
  return sum;
}

}  // namespace mayfly
