#pragma once

#include "snapshot/memory_file.h"
#include "vmm/memory/memory_layers.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

/// Memory files in layers: a base, and diffs over it, each of the snapshot that the one below belongs to.
///
///   auto chain = open_memory_chain(paths, {.top = state.id, .memory_size = size});
///   auto memory = GuestMemory::map(options, layers_of(std::move(*chain)));   // as if they had been merged
///
/// A page is shown by the highest layer whose table has it, and by the base where none has. No byte is copied, so
/// clones share the pages of every layer.
namespace mayfly {

/// Of one chain: each layer is a file that stays open as long as the machine lives.
inline constexpr std::size_t kMostMemoryLayers = 64;

/// One memory file of a chain.
struct MemoryLayer {
  OwnedFd file;
  std::string path;  ///< As it was found: NAME, or NAME.mayfly-new (see file_pair.h).
  MemoryFileFooter footer;
  std::vector<MemoryStretch> stretches{};  ///< Empty for the lowest layer, unless all tables are wanted.
};

/// The lowest first.
using MemoryChain = std::vector<MemoryLayer>;

/// What is wanted of a chain.
struct ChainOrder {
  std::optional<SnapshotId> top{};  ///< Of the state file; absent: what the last file has.
  std::uint64_t memory_size = 0;    ///< Bytes.
  bool may_lack_base = false;       ///< The lowest may be a diff.
  bool all_tables = false;
  std::stop_token stop{};  ///< Ends the reading of a diff without a table with an error.
};

/// Opens the memory files of a chain, the lowest first. A layer that a killed monitor left beside its name is found
/// there. Errors, which name the file, its place and the remedy: too many or no files, one that cannot be opened or is
/// damaged, one that is not of the snapshot that the layer above is a diff of, a diff without its base, a whole memory
/// over others. For one path they are those of open_memory_file().
[[nodiscard]] Result<MemoryChain> open_memory_chain(std::span<const std::string> paths, const ChainOrder& order);

/// Whole pages that a layer shows. `layer` counts from the lowest, which is 0.
struct ShownRange {
  PageRange range{};
  std::size_t layer = 0;
  friend bool operator==(const ShownRange&, const ShownRange&) = default;
};

/// What each of these tables shows where the later ones lie over the earlier: ascending, without overlaps, neighbours
/// of one layer joined. The tables' layers are `first_layer` and those that follow.
[[nodiscard]] std::vector<ShownRange> shown_ranges(std::span<const std::span<const MemoryStretch>> tables,
                                                   std::size_t first_layer);

/// What the layers over the lowest show: see shown_ranges().
[[nodiscard]] std::vector<ShownRange> shown_over_base(const MemoryChain& chain);

/// A layer, for people to read.
struct LayerSummary {
  std::string path;
  MemoryFileFooter footer;
  std::uint64_t data_bytes = 0;   ///< Of its own.
  std::uint64_t shown_bytes = 0;  ///< Of those, what no layer above hides.
};

/// What each layer of a chain has, whose tables are all there.
[[nodiscard]] std::vector<LayerSummary> summarize(const MemoryChain& chain);

/// The files, and which shows what.
[[nodiscard]] MemoryLayers layers_of(MemoryChain chain);

}  // namespace mayfly
