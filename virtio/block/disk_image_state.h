#pragma once

#include <cstdint>

namespace mayfly {

/// Which file it was, and of which moment: a snapshot keeps this to say later that a drive's file has changed.
struct ImageIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t size_bytes = 0;
  std::int64_t modified_ns = 0;  ///< Of the file's data, since 1970.
  friend bool operator==(const ImageIdentity&, const ImageIdentity&) = default;
};

}  // namespace mayfly
