#pragma once

#include "rootfs-tools/image/limits.h"
#include "rootfs-tools/image/spool.h"
#include "vmm/base/error.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

/// The root file system that layers make, in memory; nothing is unpacked to a host's directory, so no name of an image is
/// ever resolved there.
///
///   FileTree tree{limits};
///   for (each layer) {
///     tree.begin_layer();
///     TRY(tree.put("usr/bin/x", std::move(inode)));   // entries in the order of the archive
///     TRY(tree.link("usr/bin/y", "usr/bin/x"));
///     TRY(tree.white_out("etc/old"));
///   }
///
/// As reference implementations extract (umoci, OCI image-spec 1.0 layer.md):
/// - Symbolic links among a path's parents are resolved within the root; its last name is not.
/// - Missing parents are made, with mode 0755, of root, at time 0. So they are where a parent is a dangling link.
/// - A directory over a directory keeps what is in it and takes the new metadata. Any other entry replaces what was there.
/// - Whiteouts remove what lower layers have, wherever they stand in their own layer.
///
/// Errors say nothing of the entry's own name: whoever reads the layer puts it before them.
namespace mayfly::image {

enum class InodeKind : std::uint8_t { Directory, File, Symlink, CharacterDevice, BlockDevice, Fifo };

struct ExtendedAttribute {
  std::string name;
  std::string value;
};

struct Inode;

/// A name in a directory. Hard links are entries that share an inode.
struct Entry {
  std::shared_ptr<Inode> inode;
  std::uint64_t layer = 0;  ///< The last one that has it, or something below it.
};

struct Inode {
  InodeKind kind = InodeKind::Directory;
  std::uint16_t mode = 0;  ///< The lowest twelve bits.
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::int64_t modified_s = 0;
  std::uint32_t device_major = 0;
  std::uint32_t device_minor = 0;
  std::string target{};  ///< Of a symbolic link.
  FileData data{};       ///< Of a file.
  std::vector<ExtendedAttribute> attributes{};
  std::map<std::string, Entry, std::less<>> children{};
};

class FileTree {
 public:
  explicit FileTree(const ImageLimits& limits);

  /// Whiteouts from here on do not touch what comes from here on.
  void begin_layer() noexcept { ++layer_; }

  /// An entry of any kind.
  [[nodiscard]] Status put(std::string_view path, Inode inode);
  /// A hard link to what `target` names at this moment.
  [[nodiscard]] Status link(std::string_view path, std::string_view target);
  /// Removes what lower layers have at `path`.
  [[nodiscard]] Status white_out(std::string_view path);
  /// Removes what lower layers have in the directory at `path`.
  [[nodiscard]] Status make_opaque(std::string_view path);

  [[nodiscard]] const Inode& root() const noexcept { return *root_.inode; }
  /// What `path` names, all links followed within the root; null where there is nothing.
  [[nodiscard]] const Inode* find(std::string_view path);

 private:
  using Names = std::vector<std::string>;
  /// Where the parents of a path lead: directories that are there, from the root on, and names below that are not.
  struct Place {
    std::vector<Entry*> directories;
    Names missing;
    const Inode* blocked_by = nullptr;  ///< Something that is neither a directory nor a link to one.
    bool at_end = true;                 ///< It is what the last name leads to.
  };

  [[nodiscard]] static Result<Names> names_in(std::string_view path);
  [[nodiscard]] Result<Place> walk(const Names& names);
  [[nodiscard]] Result<Entry*> make_parent(const Names& names);
  [[nodiscard]] Status count_entry(std::uint64_t metadata_bytes);
  [[nodiscard]] Status count_lookup();
  [[nodiscard]] Status put_root(Inode inode);
  [[nodiscard]] Status remove_lower(std::map<std::string, Entry, std::less<>>& children,
                                    std::map<std::string, Entry, std::less<>>::iterator entry);
  [[nodiscard]] Status remove_lower_children(Inode& directory);

  ImageLimits limits_;
  Entry root_;
  std::uint64_t layer_ = 0;
  std::uint64_t entries_ = 0;
  std::uint64_t metadata_bytes_ = 0;
  std::uint64_t lookups_ = 0;
};

}  // namespace mayfly::image
