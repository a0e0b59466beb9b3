#pragma once

#include "snapshot/memory_file.h"
#include "snapshot/snapshot.h"

#include <cstddef>
#include <cstdint>
#include <string>

/// Whether a snapshot's two files are whole and each other's.
namespace mayfly {

/// What was found.
struct VerifiedPair {
  Snapshot snapshot;
  MemoryFileFooter footer;
  std::uint64_t data_bytes = 0;  ///< Of the memory; the rest is holes.
};

/// Reads both files whole and compares every checksum; of the memory, also NAME.mayfly-new where that is the state's
/// (see file_pair.h). A diff is good, too. Errors: the first thing that is wrong, with the file and the place. Any
/// thread; takes as long as reading the files does.
[[nodiscard]] Result<VerifiedPair> verify_pair(const std::string& state_path, const std::string& memory_path);

}  // namespace mayfly
