#pragma once

#include "rootfs-tools/image/file_tree.h"
#include "rootfs-tools/image/spool.h"
#include "vmm/base/error.h"

#include <cstdint>
#include <functional>

/// A squashfs of a tree, by libsquashfs.
///
/// The same tree gives the same bytes: names are in order, the file system has no time of its own, and what threads do side
/// by side is written in the order of files.
namespace mayfly::image {

struct SquashfsOptions {
  std::uint32_t block_size = std::uint32_t{128} << 10;  ///< rootfs-tools/README.md says why.
  std::uint32_t level = 9;                              ///< Of zstd.
  std::uint32_t threads = 0;                            ///< That compress; 0: one for each CPU.
};

struct SquashfsFacts {
  std::uint64_t inodes = 0;
  std::uint64_t data_bytes = 0;  ///< Of files, holes included.
  std::uint64_t size_bytes = 0;  ///< Of the file.
};

/// Writes to `file`, which is empty. `on_data`: how many bytes of files were read so far. Errors: the disk is full, too many
/// owners.
[[nodiscard]] Result<SquashfsFacts> write_squashfs(const Inode& root, const Spool& spool, int file,
                                                   const SquashfsOptions& options,
                                                   const std::function<void(std::uint64_t)>& on_data);

}  // namespace mayfly::image
