#include "snapshot/memory_chain.h"

#include "snapshot/file_pair.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

namespace mayfly {
namespace {

// --- Which files belong together -------------------------------------------------------------------------------------

/// A layer that was opened, or why it could not be.
using FoundLayer = Result<MemoryLayer>;

/// The files at PATH and PATH.mayfly-new, in this order. The second is none where it is not there.
struct Candidates {
  FoundLayer named;
  FoundLayer left;
};

FoundLayer open_layer(const std::string& path, std::uint64_t memory_size) {
  auto file = TRY(open_for_reading(path));
  const MemoryFileFooter footer = TRY(read_footer(file.get(), path, memory_size));
  return MemoryLayer{.file = std::move(file), .path = path, .footer = footer};
}

/// Looks at the paths of a chain from the highest layer down: each diff says of which snapshot the one below must be.
class ChainOpener {
 public:
  ChainOpener(std::span<const std::string> paths, const ChainOrder& order)
      : paths_(paths), order_(order), wanted_(order.top) {
    for (const std::string& path : paths)
      candidates_.push_back({open_layer(path, order.memory_size), open_layer(new_name(path), order.memory_size)});
  }

  [[nodiscard]] Result<MemoryChain> open() && {
    MemoryChain chain;
    for (std::size_t place = paths_.size(); place-- > 0;) {
      auto layer = TRY(choose(place));
      TRY(check_kind(layer, place));
      if (place > 0 || order_.all_tables) {
        auto stretches = read_stretches(layer.file.get(), layer.path, layer.footer, order_.stop);
        if (!stretches) return refuse_unusable(stretches.error(), place);
        layer.stretches = std::move(*stretches);
      }
      wanted_ = layer.footer.base_id;
      chain.push_back(std::move(layer));
    }
    std::ranges::reverse(chain);
    return chain;
  }

 private:
  /// What a sentence about one of several files begins with.
  [[nodiscard]] std::string at(std::size_t place) const {
    return paths_.size() == 1 ? "" : fmt::format("layer {} of {}: ", place + 1, paths_.size());
  }

  [[nodiscard]] std::unexpected<Error> refuse_unusable(const Error& why, std::size_t place) const {
    const bool damaged = why.kind == ErrorKind::InvalidArgument && paths_.size() > 1;
    return fail(why.kind, "{}{}{}", at(place), why.message,
                damaged ? "; give a whole copy of the snapshot's memory file" : "");
  }

  /// The file of a layer: the one under its name, unless the leftover beside it is what is wanted.
  [[nodiscard]] FoundLayer choose(std::size_t place) {
    auto& [named, left] = candidates_[place];
    const auto is_wanted = [&](const FoundLayer& layer) { return layer && (!wanted_ || layer->footer.id == *wanted_); };
    if (is_wanted(named)) return std::move(named);
    if (is_wanted(left)) return std::move(left);
    if (!named) return refuse_unusable(named.error(), place);
    return refuse_foreign(*named, place);
  }

  [[nodiscard]] std::unexpected<Error> refuse_foreign(const MemoryLayer& found, std::size_t place) const {
    const std::string whose = fmt::format("{}memory file {} belongs to snapshot {}", at(place), found.path,
                                          format_snapshot_id(found.footer.id));
    const std::string wanted = format_snapshot_id(*wanted_);
    if (paths_.size() == 1)
      return fail(ErrorKind::InvalidArgument,
                  "{}, and the state file to snapshot {}; give the pair that was written together", whose, wanted);
    const auto elsewhere = place_with(*wanted_, place);
    if (place + 1 == paths_.size())
      return fail(ErrorKind::InvalidArgument, "{}, and the state file to snapshot {}; {}", whose, wanted,
                  elsewhere ? fmt::format("layer {} is that one's: give the layers in their order, the base first",
                                          *elsewhere + 1)
                            : "end the list with the memory file that was written together with the state file");
    return fail(ErrorKind::InvalidArgument, "{}, and layer {}, {}, is a diff of snapshot {}; {}", whose, place + 2,
                paths_[place + 1], wanted,
                elsewhere ? fmt::format("layer {} is that one's: give the layers in their order, the base first",
                                        *elsewhere + 1)
                          : fmt::format("put that one's memory file before layer {}", place + 2));
  }

  /// Where the memory of a snapshot is listed, among those that have no place yet.
  [[nodiscard]] std::optional<std::size_t> place_with(const SnapshotId& id, std::size_t before) const {
    for (std::size_t place = 0; place < before; ++place)
      for (const FoundLayer* layer : {&candidates_[place].named, &candidates_[place].left})
        if (*layer && (*layer)->footer.id == id) return place;
    return std::nullopt;
  }

  [[nodiscard]] Status check_kind(const MemoryLayer& layer, std::size_t place) const {
    const bool whole = layer.footer.kind == MemoryFileKind::Full;
    if (place > 0 && whole)
      return fail(ErrorKind::InvalidArgument,
                  "{}memory file {} is whole, and hides what is before it; leave out the files before it", at(place),
                  layer.path);
    if (place == 0 && !whole && !order_.may_lack_base)
      return fail(ErrorKind::InvalidArgument,
                  "{}memory file {} is a diff of snapshot {}; put that one's memory file before it", at(place),
                  layer.path, format_snapshot_id(layer.footer.base_id));
    return {};
  }

  const std::span<const std::string> paths_;
  const ChainOrder& order_;
  std::optional<SnapshotId> wanted_;
  std::vector<Candidates> candidates_;
};

/// A whole memory file, whose errors speak of no others.
Result<MemoryChain> open_alone(const std::string& path, const ChainOrder& order) {
  auto file = TRY(open_memory_file(path, *order.top, order.memory_size));
  const MemoryFileFooter footer = TRY(read_footer(file.get(), path, order.memory_size));
  MemoryLayer layer{.file = std::move(file), .path = path, .footer = footer};
  if (order.all_tables) layer.stretches = TRY(read_stretches(layer.file.get(), path, footer, order.stop));
  MemoryChain chain;
  chain.push_back(std::move(layer));
  return chain;
}

// --- What they show --------------------------------------------------------------------------------------------------

/// Joins ranges that follow one another.
void add_shown(std::vector<ShownRange>& shown, std::uint64_t begin, std::uint64_t end, std::size_t layer) {
  if (!shown.empty() && shown.back().layer == layer && shown.back().range.end() == begin)
    shown.back().range.length += end - begin;
  else
    shown.push_back({{begin, end - begin}, layer});
}

std::vector<ShownRange> laid_over(std::span<const ShownRange> lower, std::span<const ShownRange> upper) {
  std::vector<ShownRange> shown;
  shown.reserve(lower.size() + upper.size());
  std::uint64_t done = 0;  // all before it is decided
  const auto add_upper = [&] {
    add_shown(shown, upper.front().range.offset, upper.front().range.end(), upper.front().layer);
    done = upper.front().range.end();
    upper = upper.subspan(1);
  };
  for (const ShownRange& low : lower) {
    while (!upper.empty() && upper.front().range.offset < low.range.end()) {
      const std::uint64_t from = std::max(low.range.offset, done);
      if (from < upper.front().range.offset) add_shown(shown, from, upper.front().range.offset, low.layer);
      add_upper();
    }
    const std::uint64_t from = std::max(low.range.offset, done);
    if (from < low.range.end()) add_shown(shown, from, low.range.end(), low.layer);
  }
  while (!upper.empty()) add_upper();
  return shown;
}

}  // namespace

Result<MemoryChain> open_memory_chain(std::span<const std::string> paths, const ChainOrder& order) {
  if (paths.empty()) return fail(ErrorKind::InvalidArgument, "no memory file is named; name the base first");
  if (paths.size() > kMostMemoryLayers)
    return fail(ErrorKind::InvalidArgument,
                "{} memory files are named, and {} is the most: merge some first (mayfly snapshot merge)", paths.size(),
                kMostMemoryLayers);
  if (paths.size() == 1 && order.top && !order.may_lack_base) return open_alone(paths.front(), order);
  return ChainOpener{paths, order}.open();
}

std::vector<ShownRange> shown_ranges(std::span<const std::span<const MemoryStretch>> tables, std::size_t first_layer) {
  std::vector<ShownRange> shown;
  if (tables.size() == 1) {
    for (const MemoryStretch& stretch : tables.front())
      add_shown(shown, stretch.range.offset, stretch.range.end(), first_layer);
    return shown;
  }
  if (tables.empty()) return shown;
  // By halves: each range is looked at as often as the layers can be halved.
  const std::size_t half = tables.size() / 2;
  return laid_over(shown_ranges(tables.first(half), first_layer),
                   shown_ranges(tables.subspan(half), first_layer + half));
}

std::vector<ShownRange> shown_over_base(const MemoryChain& chain) {
  std::vector<std::span<const MemoryStretch>> tables;
  for (const MemoryLayer& layer : std::span{chain}.subspan(1)) tables.emplace_back(layer.stretches);
  return shown_ranges(tables, 1);
}

std::vector<LayerSummary> summarize(const MemoryChain& chain) {
  std::vector<LayerSummary> summaries;
  std::vector<std::span<const MemoryStretch>> tables;
  for (const MemoryLayer& layer : chain) {
    LayerSummary summary{.path = layer.path, .footer = layer.footer};
    summary.footer.stretch_count = layer.stretches.size();  // the footer of a base with copied diffs has none
    for (const MemoryStretch& stretch : layer.stretches) summary.data_bytes += stretch.range.length;
    summaries.push_back(std::move(summary));
    tables.emplace_back(layer.stretches);
  }
  for (const ShownRange& shown : shown_ranges(tables, 0)) summaries[shown.layer].shown_bytes += shown.range.length;
  return summaries;
}

MemoryLayers layers_of(MemoryChain chain) {
  MemoryLayers layers;
  for (const ShownRange& shown : shown_over_base(chain))
    layers.parts.push_back({.offset = shown.range.offset, .length = shown.range.length, .file = shown.layer});
  for (MemoryLayer& layer : chain) layers.files.push_back(std::make_shared<OwnedFd>(std::move(layer.file)));
  return layers;
}

}  // namespace mayfly
