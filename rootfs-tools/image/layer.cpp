#include "rootfs-tools/image/layer.h"

#include "rootfs-tools/image/tar_reader.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <archive_entry.h>
#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

namespace mayfly::image {
namespace {

constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";
/// As Linux has them (limits.h); a symbolic link's target is at most a page, of which the last byte is 0.
constexpr std::size_t kLongestTarget = 4095;
constexpr std::size_t kLongestAttributeName = 255;
constexpr std::size_t kLongestAttribute = 65536;
constexpr int kMostAttributes = 1000;
/// What a device number of squashfs has room for.
constexpr std::uint64_t kLargestMajor = 0xFFF;
constexpr std::uint64_t kLargestMinor = 0xFFFFF;

class LayerReader {
 public:
  LayerReader(ByteSource& archive, FileTree& tree, Spool& spool, LayerBudget& budget)
      : tar_(archive), tree_(tree), spool_(spool), budget_(budget) {}

  Status read(const std::function<void()>& on_entry) {
    for (;;) {
      // An archive that ends in the middle says so with the name of the last entry that was whole.
      auto more = tar_.next();
      if (!more) return last_.empty() ? propagate(more) : propagate(more, "after " + last_);
      if (!*more) return {};
      const char* const path = ::archive_entry_pathname(tar_.entry());
      if (path == nullptr || *path == '\0')
        return fail(ErrorKind::InvalidArgument, "an entry has no name; build the image anew");
      last_ = printable(path, kLongestShownName);
      if (auto taken = take(path); !taken) return propagate(taken, last_);
      on_entry();
    }
  }

 private:
  Status take(std::string_view path) {
    while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
    const std::size_t slash = path.rfind('/');
    const std::string_view directory = slash == std::string_view::npos ? "" : path.substr(0, slash + 1);
    const std::string_view name = path.substr(directory.size());
    if (name == kOpaque) return tree_.make_opaque(directory);
    if (name.starts_with(kWhiteout)) {
      const std::string_view removed = name.substr(kWhiteout.size());
      if (removed.empty() || removed == "." || removed == "..")
        return fail(ErrorKind::InvalidArgument, "this whiteout names no file; build the image anew");
      return tree_.white_out(std::string{directory} + std::string{removed});
    }
    if (const char* const target = ::archive_entry_hardlink(tar_.entry()); target != nullptr)
      return tree_.link(path, target);
    auto inode = TRY(read_inode());
    return tree_.put(path, std::move(inode));
  }

  Result<Inode> read_inode() {
    archive_entry* const entry = tar_.entry();
    Inode inode;
    inode.mode = static_cast<std::uint16_t>(::archive_entry_perm(entry) & 07777);
    inode.uid = TRY(read_owner("uid", ::archive_entry_uid(entry)));
    inode.gid = TRY(read_owner("gid", ::archive_entry_gid(entry)));
    inode.modified_s = ::archive_entry_mtime(entry);
    TRY(read_attributes(inode));
    switch (::archive_entry_filetype(entry)) {
      case AE_IFDIR:
        inode.kind = InodeKind::Directory;
        break;
      case AE_IFREG:
        inode.kind = InodeKind::File;
        inode.data = TRY(read_data());
        break;
      case AE_IFLNK:
        inode.kind = InodeKind::Symlink;
        inode.mode = 0777;
        inode.target = TRY(read_target());
        break;
      case AE_IFIFO:
        inode.kind = InodeKind::Fifo;
        break;
      case AE_IFCHR:
      case AE_IFBLK:
        inode.kind = ::archive_entry_filetype(entry) == AE_IFCHR ? InodeKind::CharacterDevice : InodeKind::BlockDevice;
        TRY(read_device(inode));
        break;
      default:
        return fail(ErrorKind::InvalidArgument, "it is neither file, directory, link, device nor FIFO (type {:o})",
                    ::archive_entry_filetype(entry));
    }
    return inode;
  }

  /// The largest number means "none" to the kernel.
  static Result<std::uint32_t> read_owner(std::string_view field, std::int64_t number) {
    if (number < 0 || number >= std::numeric_limits<std::uint32_t>::max())
      return fail(ErrorKind::InvalidArgument, "its {} {} must be from 0 to 4294967294; build the image anew", field,
                  number);
    return static_cast<std::uint32_t>(number);
  }

  Result<std::string> read_target() {
    const char* const target = ::archive_entry_symlink(tar_.entry());
    const std::string_view text = target != nullptr ? target : "";
    if (text.empty() || text.size() > kLongestTarget)
      return fail(ErrorKind::InvalidArgument, "it is a symbolic link of {} bytes, which must be 1 to {}", text.size(),
                  kLongestTarget);
    return std::string{text};
  }

  Status read_device(Inode& inode) {
    const std::uint64_t major = ::archive_entry_rdevmajor(tar_.entry());
    const std::uint64_t minor = ::archive_entry_rdevminor(tar_.entry());
    if (major > kLargestMajor || minor > kLargestMinor)
      return fail(ErrorKind::InvalidArgument, "there is no device {}:{}; the largest is {}:{}", major, minor,
                  kLargestMajor, kLargestMinor);
    inode.device_major = static_cast<std::uint32_t>(major);
    inode.device_minor = static_cast<std::uint32_t>(minor);
    return {};
  }

  Status read_attributes(Inode& inode) {
    archive_entry* const entry = tar_.entry();
    if (const int count = ::archive_entry_xattr_reset(entry); count > kMostAttributes)
      return fail(ErrorKind::TooLarge, "it has {} extended attributes, and {} are allowed", count, kMostAttributes);
    const char* name = nullptr;
    const void* value = nullptr;
    std::size_t size = 0;
    while (::archive_entry_xattr_next(entry, &name, &value, &size) == kAttributeGiven) {
      const std::string_view text = name != nullptr ? name : "";
      // They belong to the host that the image was made on; who extracts leaves them out as well.
      if (text == "security.selinux" || text == "system.nfs4_acl") continue;
      if (!text.starts_with("user.") && !text.starts_with("trusted.") && !text.starts_with("security.")) {
        if (budget_.left_out_attributes.size() < kMostLeftOut)
          budget_.left_out_attributes.insert(printable(text, kLongestShownName));
        continue;
      }
      if (text.size() > kLongestAttributeName || text.ends_with('.') || size > kLongestAttribute)
        return fail(ErrorKind::InvalidArgument,
                    "its extended attribute '{}' has a name of {} and a value of {} bytes; Linux takes {} and {}",
                    printable(text, kLongestShownName), text.size(), size, kLongestAttributeName, kLongestAttribute);
      std::erase_if(inode.attributes, [&](const ExtendedAttribute& each) { return each.name == text; });
      // A record without a value deletes what an earlier one says (POSIX, pax Extended Header).
      if (size > 0) inode.attributes.push_back({std::string{text}, {static_cast<const char*>(value), size}});
    }
    std::ranges::sort(inode.attributes, {}, &ExtendedAttribute::name);
    inode.attributes.shrink_to_fit();  // its limit counts these, and no spare ones
    return {};
  }

  Result<FileData> read_data() {
    const std::int64_t size = ::archive_entry_size(tar_.entry());
    if (size < 0 || static_cast<std::uint64_t>(size) > budget_.data_bytes)
      return fail(ErrorKind::TooLarge, "it has {} bytes, and {} are left; --max-size raises the limit", size,
                  budget_.data_bytes);
    budget_.data_bytes -= static_cast<std::uint64_t>(size);
    const FileData file = spool_.reserve(static_cast<std::uint64_t>(size));
    for (;;) {
      const auto block = TRY(tar_.data());
      if (!block) return file;
      if (block->offset > file.size || block->bytes.size() > file.size - block->offset)
        return fail(ErrorKind::InvalidArgument, "it has data beyond its size of {} bytes; build the image anew",
                    file.size);
      TRY(spool_.write(file, block->offset, block->bytes));
    }
  }

  static constexpr int kAttributeGiven = 0;  // ARCHIVE_OK

  TarReader tar_;
  FileTree& tree_;
  Spool& spool_;
  LayerBudget& budget_;
  std::string last_;
};

}  // namespace

Status apply_layer(ByteSource& archive, FileTree& tree, Spool& spool, LayerBudget& budget,
                   const std::function<void()>& on_entry) {
  tree.begin_layer();
  return LayerReader{archive, tree, spool, budget}.read(on_entry);
}

}  // namespace mayfly::image
