#pragma once

#include "snapshot/memory_chain.h"
#include "snapshot/snapshot.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

/// Whether a snapshot's files are whole and belong together.
namespace mayfly {

/// What was found.
struct VerifiedPair {
  Snapshot snapshot;
  MemoryFileFooter footer;           ///< Of the memory, or of the highest layer.
  std::uint64_t data_bytes = 0;      ///< Of the memory; the rest is holes.
  std::vector<LayerSummary> layers;  ///< The lowest first; one where the memory is one file.
};

/// Reads all files whole and compares every checksum; of the memory, also NAME.mayfly-new where that is what belongs
/// there (see file_pair.h). `memory_paths`: the layers of the memory, the lowest first. A diff is good, too, as the
/// lowest. Errors: the first thing that is wrong, with the file and the place. Any thread; takes as long as reading the
/// files does.
[[nodiscard]] Result<VerifiedPair> verify_chain(const std::string& state_path,
                                                std::span<const std::string> memory_paths);
/// The same of one memory file.
[[nodiscard]] Result<VerifiedPair> verify_pair(const std::string& state_path, const std::string& memory_path);

}  // namespace mayfly
