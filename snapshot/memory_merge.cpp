// Memory files that are merged: two files, or a base and what a machine has changed since.

#include "snapshot/checksum.h"
#include "snapshot/file_pair.h"
#include "snapshot/leftovers.h"
#include "snapshot/memory_chain.h"
#include "snapshot/memory_parts.h"
#include "vmm/base/files.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

namespace mayfly {
namespace {

using memory_parts::make_footer;
using memory_parts::read_at;
using memory_parts::write_at;
using memory_parts::write_footer;
using memory_parts::write_table;

/// A memory file that is read from.
struct Source {
  OwnedFd file;
  std::string path;
  MemoryFileFooter footer;
  std::vector<MemoryStretch> stretches;
  std::vector<std::byte> content{};       // of `loaded`
  const MemoryStretch* loaded = nullptr;  // a stretch is wanted in parts, one after the other

  /// The bytes of a stretch, once they are known to be as they were written; good until the next call.
  [[nodiscard]] Result<std::span<const std::byte>> load(const MemoryStretch& stretch) {
    content.resize(std::max(content.size(), stretch.range.length));
    const auto whole = std::span{content}.first(stretch.range.length);
    if (loaded == &stretch) return whole;
    loaded = nullptr;
    if (auto read = read_at(file.get(), path, whole, stretch.range.offset); !read) return propagate(read);
    if (checksum(whole) != stretch.checksum) return memory_parts::changed(path, stretch);
    loaded = &stretch;
    return whole;
  }

  static Result<Source> read(OwnedFd file, const std::string& path, const MemoryFileFooter& footer,
                             const std::stop_token& stop = {}) {
    auto stretches = read_stretches(file.get(), path, footer, stop);
    if (!stretches) return propagate(stretches);
    return Source{.file = std::move(file), .path = path, .footer = footer, .stretches = std::move(*stretches)};
  }
  static Result<Source> open(const std::string& path) {
    auto file = open_for_reading(path);
    if (!file) return propagate(file);
    auto footer = find_footer(file->get(), path);
    if (!footer) return propagate(footer);
    return read(std::move(*file), path, *footer);
  }
};

/// The merged file: what the base has between stretches that others put there, in order.
class MergedFile {
 public:
  /// `cloned`: the output shares the base's content already.
  MergedFile(Source& base, const NewFile& output, bool cloned, std::stop_token stop = {})
      : base_(base), output_(output), cloned_(cloned), stop_(std::move(stop)) {}

  /// Takes over what the base has from the end of the stretch before to `end`. Error: also a stop, at the next stretch.
  [[nodiscard]] Status fill_to(std::uint64_t end) {
    // Older files have RAM where the output's label is.
    if (at_ < kLabel.end() && end > kLabel.offset) {
      if (auto filled = fill_part(kLabel.offset); !filled) return filled;
      at_ = kLabel.end();
    }
    return fill_part(end);
  }
  /// A stretch that is not the base's, after fill_to() its begin.
  void add(const MemoryStretch& stretch) {
    stretches_.push_back(stretch);
    at_ = stretch.range.end();
  }
  [[nodiscard]] std::uint64_t memory_size() const noexcept { return base_.footer.memory_size; }
  /// Fills up the rest, and writes the table.
  [[nodiscard]] Status finish() {
    if (auto filled = fill_to(base_.footer.memory_size); !filled) return filled;
    auto fitted = memory_parts::fitted_table(output_.fd().get(), output_.path(), base_.footer.kind,
                                             base_.footer.memory_size, std::move(stretches_), stop_);
    if (!fitted) return propagate(fitted);
    stretches_ = std::move(*fitted);
    return write_table(output_.fd().get(), output_.path(), base_.footer.memory_size, stretches_);
  }
  /// Makes it the memory of `id`, after finish().
  [[nodiscard]] Status sign(const SnapshotId& id) const {
    return write_footer(output_.fd().get(), output_.path(),
                        make_footer(base_.footer.kind, id, base_.footer.base_id, base_.footer.memory_size, stretches_));
  }

 private:
  [[nodiscard]] Status fill_part(std::uint64_t end) {
    for (; next_ < base_.stretches.size(); ++next_) {
      const PageRange& whole = base_.stretches[next_].range;
      const std::uint64_t from = std::max(whole.offset, at_);
      const std::uint64_t to = std::min(whole.end(), end);
      if (from < to)
        if (auto copied = take_over(base_.stretches[next_], {from, to - from}); !copied) return copied;
      if (whole.end() > end) break;  // the rest of it may be wanted behind the next stretch
    }
    at_ = std::max(at_, end);
    return {};
  }
  /// `part` of a stretch of the base.
  [[nodiscard]] Status take_over(const MemoryStretch& stretch, const PageRange& part) {
    if (cloned_ && part == stretch.range) {
      stretches_.push_back(stretch);
      return {};
    }
    if (stop_.stop_requested()) return memory_parts::stopped(output_.path());
    auto whole = base_.load(stretch);
    if (!whole) return propagate(whole);
    const auto piece = whole->subspan(part.offset - stretch.range.offset, part.length);
    if (!cloned_)
      if (auto done = write_at(output_.fd().get(), output_.path(), piece, part.offset); !done) return done;
    stretches_.push_back({.range = part, .checksum = checksum(piece)});
    return {};
  }

  Source& base_;
  const NewFile& output_;
  bool cloned_;
  std::stop_token stop_;
  std::uint64_t at_ = 0;  // all before it is there
  std::size_t next_ = 0;  // the base's first stretch that may be wanted
  std::vector<MemoryStretch> stretches_;
};

/// That a memory file is a diff of the one below it.
Status check_lies_over(const Source& base, const Source& diff) {
  if (diff.footer.kind != MemoryFileKind::Diff)
    return fail(ErrorKind::InvalidArgument, "memory file {} is no diff: it needs no merging", diff.path);
  if (diff.footer.base_id != base.footer.id)
    return fail(
        ErrorKind::InvalidArgument,
        "memory file {} is a diff of snapshot {}, and {} is of snapshot {}; merge the diffs of a chain in their "
        "order",
        diff.path, format_snapshot_id(diff.footer.base_id), base.path, format_snapshot_id(base.footer.id));
  if (diff.footer.memory_size != base.footer.memory_size)
    return fail(ErrorKind::InvalidArgument, "memory files {} and {} are of machines with {} and {} MiB of memory",
                base.path, diff.path, base.footer.memory_size / kMiB, diff.footer.memory_size / kMiB);
  return {};
}

/// Puts what shows of a diff into the merged file: the parts of its stretches that lie in `shown`.
Status put_shown(Source& diff, std::size_t& next, const PageRange& shown, MergedFile& merged, const NewFile& output) {
  while (next < diff.stretches.size() && diff.stretches[next].range.end() <= shown.offset) ++next;
  for (; next < diff.stretches.size() && diff.stretches[next].range.offset < shown.end(); ++next) {
    const MemoryStretch& stretch = diff.stretches[next];
    const std::uint64_t begin = std::max(stretch.range.offset, shown.offset);
    const std::uint64_t end = std::min(stretch.range.end(), shown.end());
    if (auto filled = merged.fill_to(begin); !filled) return filled;
    auto whole = diff.load(stretch);
    if (!whole) return propagate(whole);
    const auto piece = whole->subspan(begin - stretch.range.offset, end - begin);
    if (auto done = write_at(output.fd().get(), output.path(), piece, begin); !done) return done;
    const bool is_whole = piece.size() == stretch.range.length;
    merged.add({.range = {begin, end - begin}, .checksum = is_whole ? stretch.checksum : checksum(piece)});
    if (stretch.range.end() > shown.end()) break;  // another part of it may show further up
  }
  return {};
}

/// Puts what shows of the sources over the first one into the merged file.
Status lay_over(std::span<Source> sources, MergedFile& merged, const NewFile& output) {
  std::vector<std::span<const MemoryStretch>> tables;
  for (const Source& diff : sources.subspan(1)) tables.emplace_back(diff.stretches);
  std::vector<std::size_t> next(sources.size());
  for (const ShownRange& shown : shown_ranges(tables, 1))
    for (const PageRange& part : pages_in_file({shown.range}, merged.memory_size()))
      if (auto put = put_shown(sources[shown.layer], next[shown.layer], part, merged, output); !put) return put;
  return {};
}

/// Whether guest memory was made of this file.
bool is_mapped(const GuestMemory& memory, int file) {
  struct stat status{};
  if (::fstat(file, &status) != 0) return false;
  return std::ranges::any_of(memory.memory_files(), [&](const std::shared_ptr<OwnedFd>& each) {
    struct stat used{};
    return ::fstat(each->get(), &used) == 0 && is_same_file(used, status);
  });
}

}  // namespace

Result<std::optional<OwnedFd>> open_diff_base(const std::string& path, const SnapshotId& base,
                                              const GuestMemory& memory, bool may_be_diff) {
  auto file = open_for_reading(path);
  if (!file && file.error().kind == ErrorKind::NotFound) return std::nullopt;
  if (!file) return propagate(file, "mem_file_path");
  const auto footer = read_footer(file->get(), path, memory.size());
  if (footer && footer->id == base && (may_be_diff || footer->kind == MemoryFileKind::Full))
    return std::optional{std::move(*file)};
  if (footer || !(has_footer_magic(file->get(), memory.size()) || is_mapped(memory, file->get()))) return std::nullopt;
  return fail(footer.error().kind,
              "mem_file_path: {}; if it is the diff's base, it is lost: give another path, or take a full snapshot",
              footer.error().message);
}

bool is_mapped_from(const GuestMemory& memory, const std::string& path) {
  const auto file = open_for_reading(path);
  return file && is_mapped(memory, file->get());
}

bool clone_file(int to, int from) noexcept { return ::ioctl(to, FICLONE, from) == 0; }

Status write_merged_memory_file(const PageWriting& pages, const NewFile& file, const MemoryFileContent& content,
                                OwnedFd base_file, CloneFile clone) {
  auto footer = read_footer(base_file.get(), file.path(), pages.memory.size());
  if (!footer) return propagate(footer);
  const bool cloned = clone(file.fd().get(), base_file.get());
  if (cloned)
    if (auto erased = memory_parts::erase_footers(file.fd().get(), file.path(), footer->memory_size); !erased)
      return erased;
  // Before the base is read, which takes as long as its disk: memory that is held costs the host until it is written.
  auto written = memory_parts::write_pages(pages, file.fd(), file.path(), content.pages);
  if (!written) return propagate(written);
  auto base = Source::read(std::move(base_file), file.path(), *footer, pages.stop);
  if (!base) return propagate(base);
  MergedFile merged{*base, file, cloned, pages.stop};
  for (const MemoryStretch& stretch : *written) {
    if (auto filled = merged.fill_to(stretch.range.offset); !filled) return filled;
    merged.add(stretch);
  }
  if (auto finished = merged.finish(); !finished) return finished;
  return merged.sign(content.id);
}

Status merge_memory_files(const std::string& base, const std::string& diff, const std::string& output) {
  return merge_memory_files(base, std::span{&diff, 1}, output);
}

Status merge_memory_files(const std::string& base, std::span<const std::string> diffs, const std::string& output) {
  std::vector<Source> sources;
  auto lowest = Source::open(base);
  if (!lowest) return propagate(lowest);
  sources.push_back(std::move(*lowest));
  for (const std::string& path : diffs) {
    auto diff = Source::open(path);
    if (!diff) return propagate(diff);
    if (auto fits = check_lies_over(sources.back(), *diff); !fits) return fits;
    sources.push_back(std::move(*diff));
  }
  for (const Source& source : sources)
    if (names_file(new_name(output), source.file.get()))
      return fail(ErrorKind::InvalidArgument, "output {} is made as {}, which is to be merged; give another path",
                  output, new_name(output));
  if (auto unneeded = check_leftover_unneeded(output, "output"); !unneeded) return unneeded;
  auto file = NewFile::create(output, "output");
  if (!file) return propagate(file);
  MergedFile merged{sources.front(), *file, false};
  if (auto laid = lay_over(sources, merged, *file); !laid) return laid;
  if (auto finished = merged.finish(); !finished) return finished;
  // The last diff's state is there already, so a footer makes this its memory: it may not reach the disk before the
  // rest.
  if (auto synced = file->sync(); !synced) return synced;
  if (auto written = merged.sign(sources.back().footer.id); !written) return written;
  if (auto synced = file->sync(); !synced) return synced;
  return file->publish();
}

}  // namespace mayfly
