#include "snapshot/working_set.h"

#include "snapshot/checksum.h"
#include "snapshot/file_pair.h"
#include "snapshot/small_file.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace mayfly {
namespace {

constexpr std::array<char, 8> kWorkingSetMagic = {'M', 'A', 'Y', 'F', 'L', 'Y', 'W', 'S'};
constexpr std::uint32_t kWorkingSetVersion = 1;

struct WorkingSetHeader {
  std::array<char, 8> magic = kWorkingSetMagic;
  std::uint32_t version = kWorkingSetVersion;
  std::uint32_t reserved = 0;
  SnapshotId snapshot{};
  std::uint64_t memory_size = 0;
  std::uint64_t range_count = 0;
  std::uint64_t table_checksum = 0;
  std::uint64_t checksum = 0;  ///< Of all before it.
};
static_assert(sizeof(WorkingSetHeader) == 64);
static_assert(sizeof(PageRange) == 16);
constexpr std::size_t kMostRanges = 4'000'000;
constexpr std::size_t kLargestFile = sizeof(WorkingSetHeader) + kMostRanges * sizeof(PageRange);

std::uint64_t checksum_of(const WorkingSetHeader& header) {
  return checksum(std::as_bytes(std::span{&header, 1}).first(offsetof(WorkingSetHeader, checksum)));
}

std::unexpected<Error> damaged(std::string_view what) {
  return fail(ErrorKind::InvalidArgument, "{}: the file is damaged; record the working set anew", what);
}

/// That the ranges are pages of the memory, and each page at most once.
Status check_ranges(const WorkingSet& set) {
  std::vector<PageRange> sorted = set.ranges;
  std::ranges::sort(sorted, {}, &PageRange::offset);
  std::uint64_t end = 0;
  for (const PageRange& range : sorted) {
    if (range.length == 0 || range.offset % kGuestPageSize != 0 || range.length % kGuestPageSize != 0)
      return damaged("a range that is not of whole pages");
    if (range.offset < end) return damaged("ranges that overlap");
    if (range.offset > set.memory_size || range.length > set.memory_size - range.offset)
      return damaged("a range outside the memory");
    end = range.end();
  }
  return {};
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

std::vector<std::byte> encode_working_set(const WorkingSet& set) {
  const auto ranges = std::span{set.ranges}.first(std::min(set.ranges.size(), kMostRanges));
  const auto table = std::as_bytes(ranges);
  WorkingSetHeader header{.snapshot = set.snapshot,
                          .memory_size = set.memory_size,
                          .range_count = ranges.size(),
                          .table_checksum = checksum(table)};
  header.checksum = checksum_of(header);
  std::vector<std::byte> bytes(sizeof header + table.size());
  std::memcpy(bytes.data(), &header, sizeof header);
  if (!table.empty()) std::memcpy(bytes.data() + sizeof header, table.data(), table.size());
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
  if (header.checksum != checksum_of(header) || header.version != kWorkingSetVersion)
    return damaged("its header has changed");
  const auto table = bytes.subspan(sizeof header);
  if (table.size() % sizeof(PageRange) != 0 || table.size() / sizeof(PageRange) != header.range_count)
    return damaged("it does not have the length that it tells");
  if (checksum(table) != header.table_checksum) return damaged("its ranges have changed");
  WorkingSet set{.snapshot = header.snapshot, .memory_size = header.memory_size, .ranges = {}};
  set.ranges.resize(header.range_count);
  if (!table.empty()) std::memcpy(set.ranges.data(), table.data(), table.size());
  if (auto checked = check_ranges(set); !checked) return propagate(checked);
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
