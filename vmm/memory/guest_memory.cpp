#include "vmm/memory/guest_memory.h"

#include "vmm/base/files.h"
#include "vmm/memory/huge_page_pool.h"

#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

namespace mayfly {
namespace {

constexpr std::uint64_t kPagesAWord = 64;

/// Words of a bitmap with a bit for each page.
constexpr std::size_t bitmap_words(std::uint64_t length) {
  return (length / kGuestPageSize + kPagesAWord - 1) / kPagesAWord;
}

/// Core dumps of the monitor go without guest memory, also where the host hands them to a program. A child of this process
/// does not have it, but the one that holds it for a live snapshot (HeldMemory). Not by PR_SET_DUMPABLE: a monitor without
/// privileges would lose /proc/self/pagemap, and with it snapshots.
Status keep_to_ourselves(void* address, std::uint64_t length) {
  if (::madvise(address, length, MADV_DONTDUMP) != 0)
    return fail_errno(ErrorKind::System, "cannot keep guest memory out of core dumps");
  if (::madvise(address, length, MADV_DONTFORK) != 0)
    return fail_errno(ErrorKind::System, "cannot keep guest memory from child processes");
  return {};
}

/// Kernels before 6.7 align nothing by themselves, and KVM maps 2 MiB at once only where guest and host address agree.
void* address_for_huge_pages(std::uint64_t length) {
  Mapping room{::mmap(nullptr, length + kHugePageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
               length + kHugePageSize};
  void* start = room.address();
  std::size_t space = room.length();
  return std::align(kHugePageSize, length, start, space);
}

/// Pages of the host's pool. Without MAP_NORESERVE: the kernel puts all of them aside for this mapping here, or
/// refuses. With it, the first touch of a page that the pool does not have would be a SIGBUS, however long the guest
/// has run.
Mapping map_from_pool(std::uint64_t length) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB;
  return {::mmap(nullptr, length, PROT_READ | PROT_WRITE, kFlags, -1, 0), length};
}

/// An empty mapping and errno where the host refuses.
Mapping map_anonymous(std::uint64_t length, HugePages pages) {
  if (pages == HugePages::Explicit2M) return map_from_pool(length);
  // Only a hint: no other thread has taken the place meanwhile, or the pages are small.
  void* const hint = pages == HugePages::Transparent ? address_for_huge_pages(length) : nullptr;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  return {::mmap(hint, length, PROT_READ | PROT_WRITE, kFlags, -1, 0), length};
}

Status advise(const Mapping& mapping, HugePages pages) {
  if (auto kept = keep_to_ourselves(mapping.address(), mapping.length()); !kept) return kept;
  // A kernel without transparent huge pages does not know the advice: then the pages are small.
  if (pages == HugePages::Transparent && ::madvise(mapping.address(), mapping.length(), MADV_HUGEPAGE) != 0 &&
      errno != EINVAL)
    return fail_errno(ErrorKind::System, "cannot ask for huge pages");
  return {};
}

/// Whether the host gives 2 MiB where a byte is touched. Its setting may be `never`, its memory in pieces, and a jail has
/// no /sys to look at; so the first page is touched, as each boot does, and the last of the 2 MiB must have come with it.
bool brings_huge_pages(const Mapping& mapping) {
  if (mapping.length() < kHugePageSize) return false;
  volatile std::byte* const first = mapping.bytes().data();
  *first = *first;
  unsigned char resident = 0;
  return ::mincore(mapping.bytes().data() + kHugePageSize - kGuestPageSize, kGuestPageSize, &resident) == 0 &&
         (resident & 1) != 0;
}

struct RegionPlan {
  GuestAddress start;
  std::uint64_t length;
};

/// One region, or two around the MMIO hole.
std::vector<RegionPlan> region_plan(std::uint64_t size) {
  const std::uint64_t low = std::min(size, kMmioHoleStart);
  std::vector<RegionPlan> plan{{GuestAddress{0}, low}};
  if (size > low) plan.push_back({GuestAddress{kMmioHoleEnd}, size - low});
  return plan;
}

/// Bytes that are read between two looks at a stop.
constexpr std::size_t kReadAtOnce = std::size_t{4} << 20;

Status read_fully(int fd, std::uint64_t offset, std::span<std::byte> target, const std::stop_token& stop = {}) {
  while (!target.empty()) {
    if (stop.stop_requested()) return fail(ErrorKind::State, "it was stopped");
    const std::size_t wanted = std::min(target.size(), kReadAtOnce);
    const std::size_t count = read_all_at(fd, target.first(wanted), offset);
    offset += count;
    target = target.subspan(count);
    if (count == wanted) continue;
    if (errno != 0) return fail_errno(ErrorKind::System, "cannot read {} bytes at offset {}", target.size(), offset);
    return fail(ErrorKind::InvalidArgument, "the file ends at offset {}, {} bytes too early", offset, target.size());
  }
  return {};
}

/// The same, without what the file has no data for.
Status read_data(int fd, std::uint64_t offset, std::span<std::byte> target, const std::stop_token& stop) {
  const std::uint64_t end = offset + target.size();
  for (std::uint64_t at = offset; at < end;) {
    const off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    const std::uint64_t begin = data < 0 ? at : static_cast<std::uint64_t>(data);
    if (begin >= end) return {};
    const off_t hole = data < 0 ? -1 : ::lseek(fd, data, SEEK_HOLE);
    const std::uint64_t behind = hole < 0 ? end : std::min(end, static_cast<std::uint64_t>(hole));
    if (auto read = read_fully(fd, begin, target.subspan(begin - offset, behind - begin), stop); !read) return read;
    at = behind;
  }
  return {};
}

/// A mapping beyond a file's end would be accepted and kill the process at the first touch.
Status check_lengths(const MemoryLayers& layers, std::uint64_t size_mib) {
  for (const std::shared_ptr<OwnedFd>& file : layers.files) {
    struct stat status = {};
    if (::fstat(file->get(), &status) != 0) return fail_errno(ErrorKind::System, "cannot look at the memory file");
    if (static_cast<std::uint64_t>(status.st_size) < size_mib * kMiB)
      return fail(ErrorKind::InvalidArgument, "the memory file has {} bytes, and {} MiB of memory need more",
                  status.st_size, size_mib);
  }
  return {};
}

Status map_over(std::span<std::byte> target, int file, std::uint64_t offset) {
  if (::mmap(target.data(), target.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file,
             static_cast<off_t>(offset)) == MAP_FAILED)
    return fail_errno(ErrorKind::System, "cannot map {} bytes of a memory file", target.size());
  return {};
}

/// Cuts the file range of a region into what its parts show and what is left of it.
class CutRange {
 public:
  CutRange(GuestMemory::FileRange whole, std::vector<GuestMemory::FileRange>& pieces)
      : rest_(std::move(whole)), pieces_(pieces) {}
  void show(const MemoryLayers::Part& part, const std::shared_ptr<OwnedFd>& file) {
    take(part.offset - rest_.offset, rest_.file);
    take(part.length, file);
  }
  void finish() { take(rest_.length, rest_.file); }

 private:
  void take(std::uint64_t length, const std::shared_ptr<OwnedFd>& file) {
    if (length == 0) return;
    pieces_.push_back({.start = rest_.start, .length = length, .offset = rest_.offset, .file = file});
    rest_.start.value += length;
    rest_.offset += length;
    rest_.length -= length;
  }

  GuestMemory::FileRange rest_;
  std::vector<GuestMemory::FileRange>& pieces_;
};

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
  std::vector<Region> regions;
  for (const auto& [start, length] : region_plan(options.size_mib * kMiB)) {
    Mapping mapping = map_anonymous(length, options.pages);
    if (!mapping && options.pages == HugePages::Explicit2M && errno == ENOMEM) {
      regions.clear();  // what the pool can give includes what the first region got
      return huge_page_shortage(options.size_mib, read_huge_page_pool(std::string{kHugePagePoolPath}));
    }
    if (!mapping) return fail_errno(ErrorKind::System, "cannot map {} MiB of guest memory", length / kMiB);
    if (auto advised = advise(mapping, options.pages); !advised) return propagate(advised);
    regions.push_back({start, std::move(mapping)});
  }
  return GuestMemory{std::move(regions), options.pages};
}

Result<GuestMemory> GuestMemory::map(const Options& options, OwnedFd file) {
  return map(options, MemoryLayers{.files = {std::make_shared<OwnedFd>(std::move(file))}});
}

Result<GuestMemory> GuestMemory::map(const Options& options, const MemoryLayers& layers, std::size_t most_mapped) {
  if (auto checked = check(options); !checked) return propagate(checked);
  if (auto checked = check_lengths(layers, options.size_mib); !checked) return propagate(checked);
  if (options.pages == HugePages::Explicit2M) return read_into_huge_pages(options, layers);
  MappedParts mapped{layers.parts, most_mapped};
  std::vector<Region> regions;
  std::vector<FileRange> ranges;
  std::uint64_t offset = 0;
  bool all_mapped = true;
  for (const auto& [start, length] : region_plan(options.size_mib * kMiB)) {
    Mapping mapping{::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                           layers.files.front()->get(), static_cast<off_t>(offset)),
                    length};
    if (!mapping) return fail_errno(ErrorKind::System, "cannot map {} MiB of guest memory", length / kMiB);
    CutRange shown{{.start = start, .length = length, .offset = offset, .file = layers.files.front()}, ranges};
    for (const MemoryLayers::Part& part : layers.parts_within(offset, length)) {
      const auto target = mapping.bytes().subspan(part.offset - offset, part.length);
      const std::shared_ptr<OwnedFd>& file = layers.files[part.file];
      const bool maps = mapped.includes_next(part);
      auto placed = maps ? map_over(target, file->get(), part.offset)
                         : read_fully(file->get(), part.offset, target, options.stop);
      if (!placed) return propagate(placed);
      all_mapped = all_mapped && maps;
      if (maps) shown.show(part, file);  // a copy is private, and so counts as changed
    }
    shown.finish();
    if (auto kept = keep_to_ourselves(mapping.address(), length); !kept) return propagate(kept);
    regions.push_back({start, std::move(mapping)});
    offset += length;
  }
  GuestMemory memory{std::move(regions), options.pages};
  memory.all_mapped_ = all_mapped;
  memory.file_ranges_ = std::move(ranges);
  memory.memory_files_ = layers.files;
  return memory;
}

Result<GuestMemory> GuestMemory::read_into_huge_pages(const Options& options, const MemoryLayers& layers) {
  auto memory = create(options);
  if (!memory) return memory;
  std::uint64_t offset = 0;
  for (const Region& region : memory->regions_) {
    const std::span<std::byte> bytes = region.mapping.bytes();
    if (auto read = read_data(layers.files.front()->get(), offset, bytes, options.stop); !read) return propagate(read);
    for (const MemoryLayers::Part& part : layers.parts_within(offset, region.size())) {
      const auto target = bytes.subspan(part.offset - offset, part.length);
      if (auto read = read_fully(layers.files[part.file]->get(), part.offset, target, options.stop); !read)
        return propagate(read);
    }
    offset += region.size();
  }
  memory->memory_files_ = layers.files;
  return memory;
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
  note_write(target->data(), source.size());
  return true;
}

Status GuestMemory::place_file(int fd, std::uint64_t offset, GuestAddress at, std::uint64_t length) {
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
  if (!aligned || whole == 0 || has_huge_pages()) return read_fully(fd, offset, *target);

  if (auto read = read_fully(fd, offset, target->first(head)); !read) return read;
  std::byte* const start = target->data() + head;
  if (::mmap(start, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
             static_cast<off_t>(offset + head)) == MAP_FAILED)
    return fail_errno(ErrorKind::System, "cannot map {} bytes of the file", whole);
  const FileRange range{.start = GuestAddress{at.value + head}, .length = whole, .offset = offset + head, .file = {}};
  file_ranges_.insert(std::ranges::upper_bound(file_ranges_, range.start, {}, &FileRange::start), range);
  if (auto kept = keep_to_ourselves(start, whole); !kept) return kept;
  return read_fully(fd, offset + head + whole, target->subspan(head + whole));
}

bool GuestMemory::has_huge_pages() {
  if (pages_ == HugePages::Transparent && !brings_huge_pages(regions_.front().mapping)) pages_ = HugePages::None;
  return pages_ != HugePages::None;
}

void GuestMemory::set_served(const MemoryLayers& layers) {
  served_ = true;
  file_ranges_.clear();
  memory_files_ = layers.files;
  const std::shared_ptr<OwnedFd> base = layers.files.empty() ? nullptr : layers.files.front();
  std::uint64_t offset = 0;
  for (const Region& region : regions_) {
    CutRange shown{{.start = region.start, .length = region.size(), .offset = offset, .file = base}, file_ranges_};
    for (const MemoryLayers::Part& part : layers.parts_within(offset, region.size()))
      shown.show(part, layers.files[part.file]);
    shown.finish();
    offset += region.size();
  }
}

void GuestMemory::track_writes() {
  std::size_t words = 0;
  for (const Region& region : regions_) words += bitmap_words(region.size());
  written_.assign(words, 0);
}

void GuestMemory::mark_written(const std::byte* at, std::size_t length) const noexcept {
  std::size_t first_word = 0;
  for (const Region& region : regions_) {
    const std::byte* const begin = region.mapping.bytes().data();
    if (at >= begin && at < begin + region.size()) {
      const auto offset = static_cast<std::uint64_t>(at - begin);
      for (std::uint64_t page = offset / kGuestPageSize; page <= (offset + length - 1) / kGuestPageSize; ++page)
        __atomic_fetch_or(&written_[first_word + page / kPagesAWord], 1ULL << page % kPagesAWord, __ATOMIC_RELAXED);
      return;
    }
    first_word += bitmap_words(region.size());
  }
}

std::vector<std::uint64_t> GuestMemory::take_written() {
  return std::exchange(written_, std::vector<std::uint64_t>(written_.size()));
}

Status GuestMemory::show_to_children(bool on) const {
  for (const Region& region : regions_)
    if (::madvise(region.mapping.address(), region.mapping.length(), on ? MADV_DOFORK : MADV_DONTFORK) != 0)
      return fail_errno(ErrorKind::System, "guest memory cannot be {} a child process", on ? "shown to" : "kept from");
  return {};
}

std::uint64_t GuestMemory::size() const noexcept {
  std::uint64_t sum = 0;
  for (const Region& region : regions_) sum += region.size();
  return sum;
}

}  // namespace mayfly
