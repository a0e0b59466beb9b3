// The label of a memory file: whose memory it is, and which parts of it are data (memory_file.h has the format).

#include "snapshot/checksum.h"
#include "snapshot/memory_parts.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <limits>
#include <optional>

namespace mayfly {

using memory_parts::checksum_of;
using memory_parts::kMagic;
using memory_parts::read_at;
using memory_parts::size_of;
using memory_parts::write_at;

namespace {

constexpr std::uint64_t kWholeFooter = kLabel.offset;
constexpr std::array<std::uint64_t, 2> kDiffFooters = {kLabel.offset + kGuestPageSize,
                                                       kLabel.offset + 2 * kGuestPageSize};
constexpr std::array<std::uint64_t, 3> kFootersInRam = {kWholeFooter, kDiffFooters[0], kDiffFooters[1]};
constexpr std::uint64_t kLabelTable = kLabel.offset + 3 * kGuestPageSize;

/// A stretch in the label's table.
struct LabelledStretch {
  std::uint32_t first_page = 0;
  std::uint32_t page_count = 0;
  std::uint64_t checksum = 0;
};
static_assert(sizeof(LabelledStretch) == 16);
constexpr std::size_t kMostLabelled = (kLabel.end() - kLabelTable) / sizeof(LabelledStretch);
static_assert(GuestMemory::kMaximumSizeMib * kMiB / kGuestPageSize <= std::numeric_limits<std::uint32_t>::max());

/// At most so many stretches has a memory without holes; the rest of the label's table is for holes.
constexpr std::uint64_t kStretchesOfAll = 4096;

std::uint64_t footer_place(const MemoryFileFooter& footer) {
  if (footer.version == kVersionBehindRam) return footer.memory_size;
  if (footer.kind == MemoryFileKind::Full) return kWholeFooter;
  return kDiffFooters.at(footer.id.back() & 1U);
}

std::vector<LabelledStretch> labelled(std::span<const MemoryStretch> stretches) {
  std::vector<LabelledStretch> table;
  table.reserve(stretches.size());
  for (const MemoryStretch& stretch : stretches)
    table.push_back({.first_page = static_cast<std::uint32_t>(stretch.range.offset / kGuestPageSize),
                     .page_count = static_cast<std::uint32_t>(stretch.range.length / kGuestPageSize),
                     .checksum = stretch.checksum});
  return table;
}

/// Joins ranges with at most `gap` between them, but not over the label, and calls `use(begin, end)` for each result.
template <typename Use>
void for_each_joined(const PageRanges& ranges, std::uint64_t gap, Use use) {
  for (std::size_t i = 0; i < ranges.size();) {
    const std::uint64_t begin = ranges[i].offset;
    std::uint64_t end = ranges[i].end();
    for (++i; i < ranges.size() && ranges[i].offset - end <= gap; ++i) {
      if (end <= kLabel.offset && ranges[i].offset >= kLabel.end()) break;
      end = ranges[i].end();
    }
    use(begin, end);
  }
}

std::uint64_t stretches_of(const PageRanges& ranges, std::uint64_t gap, std::uint64_t longest) {
  std::uint64_t count = 0;
  for_each_joined(ranges, gap,
                  [&](std::uint64_t begin, std::uint64_t end) { count += (end - begin + longest - 1) / longest; });
  return count;
}

/// Joins ranges until at most kMostLabelled stretches are left, over gaps as small as possible. If that needs gaps longer
/// than a stretch, they stay as they are.
PageRanges joined_to_fit(PageRanges ranges, std::uint64_t longest) {
  std::uint64_t gap = 0;
  while (stretches_of(ranges, gap, longest) > kMostLabelled) {
    if (gap > longest) return ranges;
    gap = gap == 0 ? kGuestPageSize : gap * 2;
  }
  if (gap == 0) return ranges;
  PageRanges joined;
  for_each_joined(ranges, gap, [&](std::uint64_t begin, std::uint64_t end) { joined.push_back({begin, end - begin}); });
  return joined;
}

/// The footer at `at`; nullopt where nothing says that one is there.
Result<std::optional<MemoryFileFooter>> footer_at(int file, const std::string& path, std::uint64_t at,
                                                  std::uint64_t memory_size, std::uint64_t file_size) {
  MemoryFileFooter footer;
  if (auto read = read_at(file, path, std::as_writable_bytes(std::span{&footer, 1}), at); !read) return propagate(read);
  if (footer.magic != kMagic) return std::nullopt;
  const std::uint32_t version = at == memory_size ? kVersionBehindRam : kVersionInRam;
  if (footer.version != version)
    return fail(ErrorKind::Unsupported, "memory file {} has version {}, and Mayfly {} knows version {}", path,
                footer.version, MAYFLY_VERSION, version);
  const std::uint64_t most =
      version == kVersionInRam
          ? std::min<std::uint64_t>(kMostLabelled, memory_size / kGuestPageSize)
          : std::min((file_size - memory_size - kFooterRoom) / sizeof(MemoryStretch), memory_size / kGuestPageSize);
  // A footer in the label may be of RAM of another size: another machine's file.
  if (version == kVersionInRam && footer.checksum == checksum_of(footer) && footer.memory_size != memory_size)
    return std::nullopt;
  const bool has_kind = footer.kind == MemoryFileKind::Full || footer.kind == MemoryFileKind::Diff;
  if (footer.checksum != checksum_of(footer) || footer.memory_size != memory_size || !has_kind ||
      footer.stretch_count > most || footer_place(footer) != at)
    return fail(ErrorKind::InvalidArgument, "memory file {} is damaged: its footer has changed", path);
  return footer;
}

/// Whose memory a file with these footers is: one, or a base's and those of diffs that were copied onto it.
Result<MemoryFileFooter> judge(const std::string& path, std::span<const MemoryFileFooter> found) {
  if (found.size() == 1) return found.front();
  const auto whole = std::ranges::find(found, MemoryFileKind::Full, &MemoryFileFooter::kind);
  const MemoryFileFooter* top = nullptr;
  for (const MemoryFileFooter& diff : found) {
    const bool is_under_another = std::ranges::any_of(found, [&](const MemoryFileFooter& each) {
      return each.kind == MemoryFileKind::Diff && each.base_id == diff.id;
    });
    if (diff.kind != MemoryFileKind::Diff || is_under_another) continue;
    // Two tops, or one without its base: a diff between was not copied.
    const bool has_base = std::ranges::find(found, diff.base_id, &MemoryFileFooter::id) != found.end();
    if (top != nullptr || !has_base)
      return fail(ErrorKind::InvalidArgument,
                  "memory file {}: the diff of snapshot {} was copied onto what is not that snapshot's memory; copy "
                  "diffs onto their base in their order, each of them, or merge them (mayfly snapshot merge)",
                  path, format_snapshot_id(diff.base_id));
    top = &diff;
  }
  if (top == nullptr)
    return fail(ErrorKind::InvalidArgument, "memory file {} is damaged: each of its footers names another as its base",
                path);
  MemoryFileFooter patched = *top;
  patched.version = kVersionPatched;
  patched.stretch_count = 0;
  if (whole != found.end()) {
    patched.kind = MemoryFileKind::Full;
    patched.base_id = {};
  } else {
    patched.base_id = std::ranges::find(found, top->base_id, &MemoryFileFooter::id)->base_id;
  }
  return patched;
}

/// Of the part behind `memory_size` bytes of RAM.
constexpr std::uint64_t largest_end(std::uint64_t memory_size) {
  return kFooterRoom + memory_size / kGuestPageSize * sizeof(MemoryStretch);
}

std::unexpected<Error> table_has_changed(const std::string& path) {
  return fail(ErrorKind::InvalidArgument, "memory file {} is damaged: its table of data has changed", path);
}

Result<std::vector<MemoryStretch>> read_behind_ram(int file, const std::string& path, const MemoryFileFooter& footer) {
  std::vector<MemoryStretch> stretches(footer.stretch_count);
  if (auto read = read_at(file, path, std::as_writable_bytes(std::span{stretches}), footer.memory_size + kFooterRoom);
      !read)
    return propagate(read);
  if (checksum(std::as_bytes(std::span{stretches})) != footer.table_checksum) return table_has_changed(path);
  return stretches;
}

Result<std::vector<MemoryStretch>> read_labelled(int file, const std::string& path, const MemoryFileFooter& footer) {
  std::vector<LabelledStretch> table(footer.stretch_count);
  if (auto read = read_at(file, path, std::as_writable_bytes(std::span{table}), kLabelTable); !read)
    return propagate(read);
  if (checksum(std::as_bytes(std::span{table})) != footer.table_checksum) return table_has_changed(path);
  std::vector<MemoryStretch> stretches;
  stretches.reserve(table.size());
  for (const LabelledStretch& each : table)
    stretches.push_back(
        {.range = {each.first_page * kGuestPageSize, each.page_count * kGuestPageSize}, .checksum = each.checksum});
  return stretches;
}

/// The checksum of a part of the file. Error: also a stop.
Result<std::uint64_t> sum_up(int file, const std::string& path, const PageRange& range,
                             const std::stop_token& stop = {}) {
  RunningChecksum sum;
  std::vector<std::byte> content(std::min(range.length, kWrittenAtOnce));
  for (std::uint64_t at = range.offset; at < range.end();) {
    if (stop.stop_requested()) return memory_parts::stopped(path);
    const auto piece = std::span{content}.first(std::min<std::uint64_t>(content.size(), range.end() - at));
    if (auto read = read_at(file, path, piece, at); !read) return propagate(read);
    sum.add(piece);
    at += piece.size();
  }
  return sum.sum();
}

/// Where the file has data, in whole pages, up to `end`.
Result<PageRanges> data_of(int file, const std::string& path, std::uint64_t end) {
  std::vector<PageRange> found;
  for (std::uint64_t at = 0; at < end;) {
    const off_t data = ::lseek(file, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    const off_t hole = data < 0 ? data : ::lseek(file, data, SEEK_HOLE);
    if (hole < 0) return fail_errno(ErrorKind::System, "memory file {}: its holes cannot be found", path);
    const std::uint64_t begin = static_cast<std::uint64_t>(data) / kGuestPageSize * kGuestPageSize;
    at = std::min(end, (static_cast<std::uint64_t>(hole) + kGuestPageSize - 1) / kGuestPageSize * kGuestPageSize);
    if (begin < at) found.push_back({begin, at - begin});
  }
  return merged(std::move(found));
}

Result<std::vector<MemoryStretch>> make_table(int file, const std::string& path, const MemoryFileFooter& footer,
                                              const std::stop_token& stop) {
  auto data = data_of(file, path, footer.memory_size);
  if (!data) return propagate(data);
  const std::uint64_t longest = longest_stretch(footer.memory_size);
  std::vector<MemoryStretch> stretches;
  for (const PageRange& range : pages_in_file(*data, footer.memory_size))
    for (std::uint64_t at = range.offset; at < range.end();) {
      const PageRange part{at, std::min(longest, range.end() - at)};
      auto sum = sum_up(file, path, part, stop);
      if (!sum) return propagate(sum);
      stretches.push_back({.range = part, .checksum = *sum});
      at = part.end();
    }
  return stretches;
}

}  // namespace

std::uint64_t longest_stretch(std::uint64_t memory_size) noexcept {
  return std::max(kWrittenAtOnce, std::bit_ceil((memory_size + kStretchesOfAll - 1) / kStretchesOfAll));
}

PageRanges pages_in_file(const PageRanges& pages, std::uint64_t memory_size) {
  PageRanges kept;
  kept.reserve(pages.size() + 1);
  for (const PageRange& range : pages) {
    if (range.offset < kLabel.offset)
      kept.push_back({range.offset, std::min(range.end(), kLabel.offset) - range.offset});
    if (range.end() > kLabel.end()) {
      const std::uint64_t begin = std::max(range.offset, kLabel.end());
      kept.push_back({begin, range.end() - begin});
    }
  }
  return joined_to_fit(std::move(kept), longest_stretch(memory_size));
}

Result<MemoryFileFooter> read_footer(int file, const std::string& path, std::uint64_t memory_size) {
  auto size = size_of(file, path);
  if (!size) return propagate(size);
  if (*size < memory_size || (*size > memory_size && *size < memory_size + kFooterRoom))
    return fail(ErrorKind::InvalidArgument,
                "memory file {} has {} bytes, and {} MiB of memory are {}: it was not written or copied whole, or is "
                "another machine's",
                path, *size, memory_size / kMiB, memory_size);
  std::vector<MemoryFileFooter> found;
  const auto look = [&](std::uint64_t at) -> Status {
    auto footer = footer_at(file, path, at, memory_size, *size);
    if (!footer) return propagate(footer);
    if (*footer) found.push_back(**footer);
    return {};
  };
  if (*size > memory_size)
    if (auto looked = look(memory_size); !looked) return propagate(looked);
  for (const std::uint64_t at : kFootersInRam)
    if (auto looked = look(at); !looked) return propagate(looked);
  if (found.empty())
    return fail(ErrorKind::InvalidArgument,
                "memory file {} is not that of a Mayfly machine with {} MiB of memory: nothing in it says so", path,
                memory_size / kMiB);
  return judge(path, found);
}

Result<MemoryFileFooter> find_footer(int file, const std::string& path) {
  auto size = size_of(file, path);
  if (!size) return propagate(size);
  std::optional<Error> damaged;
  // RAM is whole MiB: all of the file, or, where a table is behind it, which has at most an entry a page, the last MiB
  // that fits, and on down to where the table would be larger than it can be.
  for (std::uint64_t at = *size / kMiB * kMiB; at >= kMiB && *size - at <= largest_end(at); at -= kMiB) {
    if (*size != at && *size - at < kFooterRoom) continue;
    if (!has_footer_magic(file, at)) continue;
    auto footer = read_footer(file, path, at);
    if (footer) return footer;
    if (!damaged) damaged = std::move(footer.error());
  }
  if (damaged) return std::unexpected{std::move(*damaged)};
  return fail(ErrorKind::InvalidArgument, "memory file {} is not a memory file of Mayfly, or was cut short", path);
}

bool has_footer_magic(int file, std::uint64_t memory_size) {
  const auto has = [file](std::uint64_t at) {
    std::array<char, 8> magic{};
    return ::pread(file, magic.data(), magic.size(), static_cast<off_t>(at)) == static_cast<ssize_t>(magic.size()) &&
           magic == kMagic;
  };
  struct stat status{};
  const bool is_ram = ::fstat(file, &status) == 0 && static_cast<std::uint64_t>(status.st_size) == memory_size;
  return is_ram ? std::ranges::any_of(kFootersInRam, has) : has(memory_size);
}

Result<std::vector<MemoryStretch>> read_stretches(int file, const std::string& path, const MemoryFileFooter& footer,
                                                  const std::stop_token& stop) {
  if (footer.version == kVersionPatched) return make_table(file, path, footer, stop);
  auto stretches =
      footer.version == kVersionInRam ? read_labelled(file, path, footer) : read_behind_ram(file, path, footer);
  if (!stretches) return propagate(stretches);
  const std::uint64_t longest = longest_stretch(footer.memory_size);
  std::uint64_t end = 0;
  for (const MemoryStretch& stretch : *stretches) {
    const PageRange& range = stretch.range;
    const bool whole_pages = range.offset % kGuestPageSize == 0 && range.length % kGuestPageSize == 0;
    if (!whole_pages || range.offset < end || range.length == 0 || range.length > longest ||
        range.offset > footer.memory_size || range.length > footer.memory_size - range.offset ||
        (footer.version == kVersionInRam && range.offset < kLabel.end() && range.end() > kLabel.offset))
      return fail(ErrorKind::InvalidArgument, "memory file {} is damaged: its table of data makes no sense", path);
    end = range.end();
  }
  return stretches;
}

Status verify_stretches(int file, const std::string& path, std::span<const MemoryStretch> stretches) {
  for (const MemoryStretch& stretch : stretches) {
    auto sum = sum_up(file, path, stretch.range);
    if (!sum) return propagate(sum);
    if (*sum != stretch.checksum) return memory_parts::changed(path, stretch);
  }
  return {};
}

namespace memory_parts {

MemoryFileFooter make_footer(MemoryFileKind kind, const SnapshotId& id, const SnapshotId& base_id,
                             std::uint64_t memory_size, std::span<const MemoryStretch> stretches) {
  const bool fits = stretches.size() <= kMostLabelled;
  MemoryFileFooter footer{.magic = kMagic,
                          .version = fits ? kVersionInRam : kVersionBehindRam,
                          .kind = kind,
                          .id = id,
                          .base_id = base_id,
                          .memory_size = memory_size,
                          .stretch_count = stretches.size()};
  footer.table_checksum = fits ? checksum(std::as_bytes(std::span<const LabelledStretch>{labelled(stretches)}))
                               : checksum(std::as_bytes(stretches));
  footer.checksum = checksum_of(footer);
  return footer;
}

Status write_table(int file, const std::string& path, std::uint64_t memory_size,
                   std::span<const MemoryStretch> stretches) {
  const bool fits = stretches.size() <= kMostLabelled;
  auto written =
      fits ? write_at(file, path, std::as_bytes(std::span<const LabelledStretch>{labelled(stretches)}), kLabelTable)
           : write_at(file, path, std::as_bytes(stretches), memory_size + kFooterRoom);
  if (!written) return written;
  const std::uint64_t behind = fits ? 0 : kFooterRoom + std::as_bytes(stretches).size();
  if (::ftruncate(file, static_cast<off_t>(memory_size + behind)) != 0) return cannot_write(path);
  return {};
}

Status write_footer(int file, const std::string& path, const MemoryFileFooter& footer) {
  return write_at(file, path, std::as_bytes(std::span{&footer, 1}), footer_place(footer));
}

Status write_end(int file, const std::string& path, const MemoryFileFooter& footer,
                 std::span<const MemoryStretch> stretches) {
  if (auto written = write_table(file, path, footer.memory_size, stretches); !written) return written;
  return write_footer(file, path, footer);
}

Status erase_footers(int file, const std::string& path, std::uint64_t memory_size) {
  constexpr std::array<std::byte, sizeof(MemoryFileFooter)> kNone{};
  for (const std::uint64_t at : kFootersInRam)
    if (auto written = write_at(file, path, kNone, at); !written) return written;
  if (::ftruncate(file, static_cast<off_t>(memory_size)) != 0) return cannot_write(path);
  return {};
}

Result<std::vector<MemoryStretch>> fitted_table(int file, const std::string& path, MemoryFileKind kind,
                                                std::uint64_t memory_size, std::vector<MemoryStretch> stretches,
                                                const std::stop_token& stop) {
  if (stretches.size() <= kMostLabelled || kind == MemoryFileKind::Diff) return stretches;
  std::vector<PageRange> ranges;
  ranges.reserve(stretches.size());
  for (const MemoryStretch& stretch : stretches) ranges.push_back(stretch.range);
  const std::uint64_t longest = longest_stretch(memory_size);
  const PageRanges joined = joined_to_fit(merged(std::move(ranges)), longest);
  if (stretches_of(joined, 0, longest) > kMostLabelled) return stretches;
  std::vector<MemoryStretch> fitted;
  std::size_t next = 0;
  for (const PageRange& range : joined)
    for (std::uint64_t at = range.offset; at < range.end();) {
      const PageRange part{at, std::min(longest, range.end() - at)};
      while (next < stretches.size() && stretches[next].range.offset < at) ++next;
      at = part.end();
      if (next < stretches.size() && stretches[next].range == part) {
        fitted.push_back(stretches[next]);
        continue;
      }
      auto sum = sum_up(file, path, part, stop);
      if (!sum) return propagate(sum);
      fitted.push_back({.range = part, .checksum = *sum});
    }
  return fitted;
}

}  // namespace memory_parts

}  // namespace mayfly
