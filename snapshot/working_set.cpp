#include "snapshot/working_set.h"

#include "snapshot/checksum.h"
#include "snapshot/file_pair.h"
#include "snapshot/small_file.h"
#include "vmm/base/files.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

namespace mayfly {
namespace {

constexpr std::array<char, 8> kWorkingSetMagic = {'M', 'A', 'Y', 'F', 'L', 'Y', 'W', 'S'};
constexpr std::uint32_t kWorkingSetVersion = 2;
constexpr std::uint32_t kWithoutWritten = 1;

struct WorkingSetHeader {
  std::array<char, 8> magic = kWorkingSetMagic;
  std::uint32_t version = kWorkingSetVersion;
  std::uint32_t written_count = 0;
  SnapshotId snapshot{};
  std::uint64_t memory_size = 0;
  std::uint64_t range_count = 0;
  std::uint64_t table_checksum = 0;
  std::uint64_t checksum = 0;  ///< Of all before it.
};
static_assert(sizeof(WorkingSetHeader) == 64);
static_assert(sizeof(PageRange) == 16);
constexpr std::size_t kMostRanges = 4'000'000;
constexpr std::size_t kMostWritten = kMostCopiedAhead / kGuestPageSize;
constexpr std::size_t kLargestFile = sizeof(WorkingSetHeader) + (kMostRanges + kMostWritten) * sizeof(PageRange);
/// Of a recording of so many pages none is compared: a machine that ends may wait for it.
constexpr std::size_t kMostCompared = 65'536;

std::uint64_t checksum_of(const WorkingSetHeader& header) {
  return checksum(std::as_bytes(std::span{&header, 1}).first(offsetof(WorkingSetHeader, checksum)));
}

std::unexpected<Error> damaged(std::string_view what) {
  return fail(ErrorKind::InvalidArgument, "{}: the file is damaged; record the working set anew", what);
}

/// That the ranges, which ascend, are pages of the memory, and each page at most once.
Status check_ranges(std::span<const PageRange> sorted, std::uint64_t memory_size) {
  std::uint64_t end = 0;
  for (const PageRange& range : sorted) {
    if (range.length == 0 || range.offset % kGuestPageSize != 0 || range.length % kGuestPageSize != 0)
      return damaged("a range that is not of whole pages");
    if (range.offset < end) return damaged("ranges that overlap");
    if (range.offset > memory_size || range.length > memory_size - range.offset)
      return damaged("a range outside the memory");
    end = range.end();
  }
  return {};
}

Status check_set(const WorkingSet& set) {
  std::vector<PageRange> sorted = set.ranges;
  std::ranges::sort(sorted, {}, &PageRange::offset);
  TRY(check_ranges(sorted, set.memory_size));
  TRY(check_ranges(set.written, set.memory_size));
  if (bytes_in(set.written) > kMostCopiedAhead) return damaged("more changed pages than a recording tells");
  const PageRanges recorded = merged(std::move(sorted));
  for (const PageRange& range : set.written) {
    const auto after = std::ranges::upper_bound(recorded, range.offset, {}, &PageRange::offset);
    if (after == recorded.begin() || std::prev(after)->end() < range.end())
      return damaged("changed pages that were not recorded");
  }
  return {};
}

void append(std::vector<std::byte>& bytes, std::span<const PageRange> ranges) {
  const auto added = std::as_bytes(ranges);
  bytes.insert(bytes.end(), added.begin(), added.end());
}

}  // namespace

std::vector<PageRange> ranges_in_order(std::span<const std::uint64_t> offsets) {
  struct Touch {
    std::uint64_t offset;
    std::size_t order;
  };
  std::vector<Touch> touches;
  touches.reserve(offsets.size());
  for (const std::uint64_t offset : offsets) touches.push_back({offset, touches.size()});
  std::ranges::sort(touches, {}, &Touch::offset);

  struct Joined {
    PageRange range;
    std::size_t order;
  };
  std::vector<Joined> joined;
  for (const Touch& touch : touches) {
    if (!joined.empty() && touch.offset < joined.back().range.end()) continue;  // the same page again
    if (!joined.empty() && touch.offset == joined.back().range.end()) {
      joined.back().range.length += kGuestPageSize;
      joined.back().order = std::min(joined.back().order, touch.order);
    } else {
      joined.push_back({{touch.offset, kGuestPageSize}, touch.order});
    }
  }
  std::ranges::sort(joined, {}, &Joined::order);
  std::vector<PageRange> ranges;
  ranges.reserve(joined.size());
  for (const Joined& each : joined) ranges.push_back(each.range);
  return ranges;
}

PageRanges changed_pages(const GuestMemory& memory, std::span<const std::uint64_t> offsets,
                         const std::stop_token& stop) {
  PageRanges changed;
  if (offsets.size() > kMostCompared) return changed;
  std::array<std::byte, kGuestPageSize> before;  // NOLINT: filled or not used
  for (const std::uint64_t offset : offsets) {
    if (stop.stop_requested()) return {};
    const auto now = bytes_at(memory, offset, kGuestPageSize);
    if (read_all_at(file_at(memory, offset), before, offset) == before.size() && !std::ranges::equal(before, now))
      changed.push_back({offset, kGuestPageSize});
    if (changed.size() > kMostWritten) return {};
  }
  return merged(std::move(changed));
}

std::vector<std::byte> encode_working_set(const WorkingSet& set) {
  const auto ranges = std::span{set.ranges}.first(std::min(set.ranges.size(), kMostRanges));
  const auto written = ranges.size() == set.ranges.size() ? std::span{set.written} : std::span<const PageRange>{};
  std::vector<std::byte> bytes(sizeof(WorkingSetHeader));
  append(bytes, ranges);
  append(bytes, written);
  WorkingSetHeader header{.written_count = static_cast<std::uint32_t>(written.size()),
                          .snapshot = set.snapshot,
                          .memory_size = set.memory_size,
                          .range_count = ranges.size(),
                          .table_checksum = checksum(std::span{bytes}.subspan(sizeof header))};
  header.checksum = checksum_of(header);
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

Result<WorkingSet> decode_working_set(std::span<const std::byte> bytes) {
  WorkingSetHeader header;
  if (bytes.size() < sizeof header.magic ||
      std::memcmp(bytes.data(), kWorkingSetMagic.data(), sizeof kWorkingSetMagic) != 0)
    return fail(ErrorKind::InvalidArgument, "not a working set of Mayfly's");
  if (bytes.size() < sizeof header) return damaged("it ends too early");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.version > kWorkingSetVersion)
    return fail(ErrorKind::Unsupported, "a working set of version {}, and Mayfly {} knows up to {}; record it anew",
                header.version, MAYFLY_VERSION, kWorkingSetVersion);
  if (header.checksum != checksum_of(header) || header.version < kWithoutWritten ||
      (header.version == kWithoutWritten && header.written_count != 0))
    return damaged("its header has changed");
  const auto table = bytes.subspan(sizeof header);
  const std::size_t count = table.size() / sizeof(PageRange);
  if (table.size() % sizeof(PageRange) != 0 || count < header.written_count ||
      count - header.written_count != header.range_count)
    return damaged("it does not have the length that it tells");
  if (checksum(table) != header.table_checksum) return damaged("its ranges have changed");
  WorkingSet set{.snapshot = header.snapshot, .memory_size = header.memory_size, .ranges = {}, .written = {}};
  set.ranges.resize(count);
  if (count != 0) std::memcpy(set.ranges.data(), table.data(), table.size());
  const auto written = set.ranges.begin() + static_cast<std::ptrdiff_t>(header.range_count);
  set.written.assign(written, set.ranges.end());
  set.ranges.erase(written, set.ranges.end());
  if (auto checked = check_set(set); !checked) return propagate(checked);
  return set;
}

Result<WorkingSet> read_working_set(const std::string& path, const SnapshotId& snapshot, std::uint64_t memory_size) {
  auto bytes = read_small_file(path, {.field = "working_set.path", .noun = "working set", .limit = kLargestFile});
  if (!bytes) return propagate(bytes);
  auto set = decode_working_set(*bytes);
  if (!set) return propagate(set, "working_set.path " + path);
  if (set->snapshot != snapshot || set->memory_size != memory_size)
    return fail(
        ErrorKind::InvalidArgument,
        "working_set.path {} was recorded of snapshot {} with {} MiB, and the state file is of snapshot {} with "
        "{} MiB; record one of this snapshot",
        path, format_snapshot_id(set->snapshot), set->memory_size / kMiB, format_snapshot_id(snapshot),
        memory_size / kMiB);
  return set;
}

Status write_working_set(const std::string& path, const WorkingSet& set) {
  auto file = TRY(NewFile::create(path, "working_set.path"));
  TRY(file.write(encode_working_set(set)));
  TRY(file.sync());
  auto published = file.publish();
  return file.published() ? Status{} : published;
}

}  // namespace mayfly
