#pragma once

#include "rootfs-tools/image/byte_source.h"
#include "rootfs-tools/image/file_tree.h"
#include "rootfs-tools/image/spool.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <string>

/// A layer's archive onto a tree.
namespace mayfly::image {

/// So many names of attributes that are left out are kept, for a sentence about each.
inline constexpr std::size_t kMostLeftOut = 100;

/// What a layer may still ask for, and what became of all so far.
struct LayerBudget {
  std::uint64_t data_bytes;                     ///< Of files, holes included: left.
  std::set<std::string> left_out_attributes{};  ///< Of extended attributes that a squashfs cannot have.
};

/// Reads the archive to its last entry. Errors name the entry.
[[nodiscard]] Status apply_layer(ByteSource& archive, FileTree& tree, Spool& spool, LayerBudget& budget,
                                 const std::function<void()>& on_entry);

}  // namespace mayfly::image
