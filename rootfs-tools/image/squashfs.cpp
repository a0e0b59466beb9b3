#include "rootfs-tools/image/squashfs.h"

#include "vmm/base/files.h"
#include "vmm/base/try.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sqfs/block.h>
#include <sqfs/block_processor.h>
#include <sqfs/block_writer.h>
#include <sqfs/compressor.h>
#include <sqfs/dir_writer.h>
#include <sqfs/error.h>
#include <sqfs/frag_table.h>
#include <sqfs/id_table.h>
#include <sqfs/inode.h>
#include <sqfs/io.h>
#include <sqfs/meta_writer.h>
#include <sqfs/super.h>
#include <sqfs/xattr_writer.h>

namespace mayfly::image {
namespace {

constexpr std::uint32_t kNoAttributes = 0xFFFFFFFF;
constexpr std::size_t kReadOfFile = std::size_t{1} << 20;
/// What a loop device or a drive of a guest is read by.
constexpr std::size_t kPadding = 4096;

struct Destroy {
  void operator()(void* object) const noexcept { ::sqfs_destroy(object); }
};
template <typename Object>
using Owned = std::unique_ptr<Object, Destroy>;

struct FreeInode {
  void operator()(sqfs_inode_generic_t* inode) const noexcept { ::sqfs_free(inode); }
};
using OwnedInode = std::unique_ptr<sqfs_inode_generic_t, FreeInode>;

/// What libsquashfs writes to: our file. `base` comes first, so that a pointer to it is one to the whole.
struct Output {
  sqfs_file_t base{};
  int file = -1;
  std::uint64_t size = 0;
  int error_number = 0;  // of the first call that failed

  static Output& of(sqfs_file_t* base) { return *reinterpret_cast<Output*>(base); }

  static int read_at(sqfs_file_t* base, sqfs_u64 offset, void* buffer, std::size_t size) {
    errno = 0;
    if (read_all_at(of(base).file, {static_cast<std::byte*>(buffer), size}, offset) == size) return 0;
    of(base).error_number = errno;
    return SQFS_ERROR_IO;
  }
  static int write_at(sqfs_file_t* base, sqfs_u64 offset, const void* buffer, std::size_t size) {
    if (!write_all_at(of(base).file, {static_cast<const std::byte*>(buffer), size}, offset)) {
      of(base).error_number = errno;
      return SQFS_ERROR_IO;
    }
    of(base).size = std::max(of(base).size, offset + size);
    return 0;
  }
  static sqfs_u64 get_size(const sqfs_file_t* base) { return reinterpret_cast<const Output*>(base)->size; }
  static int truncate(sqfs_file_t* base, sqfs_u64 size) {
    if (::ftruncate(of(base).file, static_cast<off_t>(size)) != 0) {
      of(base).error_number = errno;
      return SQFS_ERROR_IO;
    }
    of(base).size = size;
    return 0;
  }
};

std::string_view text_of(int error) {
  switch (error) {
    case SQFS_ERROR_ALLOC:
      return "there is no memory";
    case SQFS_ERROR_IO:
      return "it cannot be written";
    case SQFS_ERROR_COMPRESSOR:
      return "the compressor failed";
    case SQFS_ERROR_OVERFLOW:
      return "the image has more owners, or larger directories, than a squashfs can have";
    case SQFS_ERROR_UNSUPPORTED:
      return "this libsquashfs has no zstd";
    default:
      return "libsquashfs failed";
  }
}

class Writer {
 public:
  Writer(const Spool& spool, int file, const SquashfsOptions& options,
         const std::function<void(std::uint64_t)>& on_data)
      : spool_(spool), options_(options), on_data_(on_data) {
    output_.file = file;
    output_.base.read_at = Output::read_at;
    output_.base.write_at = Output::write_at;
    output_.base.get_size = Output::get_size;
    output_.base.truncate = Output::truncate;
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() {
    processor_.reset();  // its threads write to the inodes
    for (const Slot& each : order_) ::sqfs_free(each.file);
  }

  Result<SquashfsFacts> write(const Inode& root) {
    TRY(begin());
    number(root);
    TRY(write_data());
    TRY(check(::sqfs_block_processor_finish(processor_.get())));
    processor_.reset();
    super_.inode_count = static_cast<sqfs_u32>(order_.size());
    super_.inode_table_start = output_.size;
    TRY(write_inodes(root, root));
    TRY(check(::sqfs_meta_writer_flush(inodes_.get())));
    TRY(check(::sqfs_meta_writer_flush(directories_.get())));
    super_.root_inode_ref = slot(root).reference;
    super_.directory_table_start = output_.size;
    TRY(check(::sqfs_meta_write_write_to_file(directories_.get())));
    TRY(write_tables(root));
    facts_.inodes = order_.size();
    facts_.size_bytes = output_.size;
    return facts_;
  }

 private:
  /// What is known of an inode while it is written.
  struct Slot {
    const Inode* inode = nullptr;
    std::uint32_t number = 0;
    std::uint32_t links = 0;
    std::uint64_t reference = 0;  // where it is in the table; its own number is not 0 until then
    bool is_written = false;
    sqfs_inode_generic_t* file = nullptr;  // of a file: made by the block processor, and then this writer's
  };

  Status check(int status) {
    if (status == 0) return {};
    errno = output_.error_number;
    if (status == SQFS_ERROR_IO && errno != 0) return fail_errno(ErrorKind::System, "it cannot be written");
    return fail(ErrorKind::System, "{} ({})", text_of(status), status);
  }

  template <typename Object>
  Status check_made(const Owned<Object>& object) {
    return object != nullptr ? Status{} : check(SQFS_ERROR_ALLOC);
  }

  Status begin() {
    TRY(check(::sqfs_super_init(&super_, options_.block_size, 0, SQFS_COMP_ZSTD)));
    TRY(check(::sqfs_super_write(&super_, &output_.base)));
    sqfs_compressor_config_t config;
    TRY(check(::sqfs_compressor_config_init(&config, SQFS_COMP_ZSTD, options_.block_size, 0)));
    config.level = options_.level;
    sqfs_compressor_t* made = nullptr;
    TRY(check(::sqfs_compressor_create(&config, &made)));
    compressor_.reset(made);
    if (const int written = compressor_->write_options(compressor_.get(), &output_.base); written < 0)
      return check(written);
    else if (written > 0)
      super_.flags |= SQFS_FLAG_COMPRESSOR_OPTIONS;
    config.flags |= SQFS_COMP_FLAG_UNCOMPRESS;
    TRY(check(::sqfs_compressor_create(&config, &made)));
    decompressor_.reset(made);
    blocks_.reset(::sqfs_block_writer_create(&output_.base, kPadding, 0));
    fragments_.reset(::sqfs_frag_table_create(0));
    owners_.reset(::sqfs_id_table_create(0));
    attributes_.reset(::sqfs_xattr_writer_create(0));
    inodes_.reset(::sqfs_meta_writer_create(&output_.base, compressor_.get(), 0));
    directories_.reset(::sqfs_meta_writer_create(&output_.base, compressor_.get(), SQFS_META_WRITER_KEEP_IN_MEMORY));
    TRY(check_made(blocks_));
    TRY(check_made(fragments_));
    TRY(check_made(owners_));
    TRY(check_made(attributes_));
    TRY(check_made(inodes_));
    TRY(check_made(directories_));
    entries_.reset(::sqfs_dir_writer_create(directories_.get(), SQFS_DIR_WRITER_CREATE_EXPORT_TABLE));
    TRY(check_made(entries_));
    return begin_blocks();
  }

  Status begin_blocks() {
    const std::uint32_t threads = options_.threads != 0 ? options_.threads : std::thread::hardware_concurrency();
    sqfs_block_processor_desc_t description{};
    description.size = sizeof description;
    description.max_block_size = options_.block_size;
    description.num_workers = std::clamp<std::uint32_t>(threads, 1, 64);
    description.max_backlog = 10 * description.num_workers;
    description.cmp = compressor_.get();
    description.wr = blocks_.get();
    description.tbl = fragments_.get();
    // With these, equal ends of files are compared byte by byte: a checksum alone could be made to agree.
    description.file = &output_.base;
    description.uncmp = decompressor_.get();
    sqfs_block_processor_t* made = nullptr;
    TRY(check(::sqfs_block_processor_create_ex(&description, &made)));
    processor_.reset(made);
    return {};
  }

  Slot& slot(const Inode& inode) { return order_[slots_.at(&inode)]; }

  /// Each inode's number, in the order in which they are written: what is in a directory, then the directory.
  void number(const Inode& directory) {  // NOLINT(misc-no-recursion): a tree has a greatest depth
    const auto count = [this](const Inode& inode) {
      const auto [at, is_new] = slots_.emplace(&inode, order_.size());
      if (is_new) order_.push_back({.inode = &inode, .number = static_cast<std::uint32_t>(order_.size() + 1)});
      ++order_[at->second].links;
    };
    for (const auto& [name, entry] : directory.children)
      if (entry.inode->kind == InodeKind::Directory) number(*entry.inode);
    for (const auto& [name, entry] : directory.children)
      if (entry.inode->kind != InodeKind::Directory) count(*entry.inode);
    count(directory);
  }

  Status write_data() {
    std::vector<std::byte> buffer(kReadOfFile);
    const std::vector<std::byte> zeros(kReadOfFile);
    for (Slot& each : order_) {
      if (each.inode->kind != InodeKind::File) continue;
      const FileData& data = each.inode->data;
      TRY(check(::sqfs_block_processor_begin_file(processor_.get(), &each.file, nullptr, 0)));
      for (std::uint64_t offset = 0; offset < data.size;) {
        // A hole is not read; libsquashfs sees that it is zeros, and keeps it as one.
        const std::uint64_t next = spool_.next_data(data, offset);
        std::span<const std::byte> piece = zeros;
        if (next > offset) {
          piece = piece.first(std::min<std::uint64_t>(next - offset, piece.size()));
        } else {
          const auto read = std::span{buffer}.first(std::min<std::uint64_t>(data.size - offset, buffer.size()));
          TRY(spool_.read(data, offset, read));
          piece = read;
        }
        TRY(check(::sqfs_block_processor_append(processor_.get(), piece.data(), piece.size())));
        offset += piece.size();
        facts_.data_bytes += piece.size();
        on_data_(facts_.data_bytes);
      }
      TRY(check(::sqfs_block_processor_end_file(processor_.get())));
    }
    return {};
  }

  /// What is in a directory, and then the directory.
  Status write_inodes(const Inode& directory, const Inode& parent) {  // NOLINT(misc-no-recursion): see number()
    for (const auto& [name, entry] : directory.children)
      if (entry.inode->kind == InodeKind::Directory) TRY(write_inodes(*entry.inode, directory));
    for (const auto& [name, entry] : directory.children) {
      if (entry.inode->kind == InodeKind::Directory || slot(*entry.inode).is_written) continue;
      auto made = TRY(make_inode(slot(*entry.inode)));
      TRY(write_inode(*made, slot(*entry.inode)));
    }
    TRY(check(::sqfs_dir_writer_begin(entries_.get(), 0)));
    std::uint32_t folders = 0;
    for (const auto& [name, entry] : directory.children) {
      const Slot& child = slot(*entry.inode);
      TRY(check(::sqfs_dir_writer_add_entry(entries_.get(), name.c_str(), child.number, child.reference,
                                            mode_of(*entry.inode))));
      folders += entry.inode->kind == InodeKind::Directory ? 1 : 0;
    }
    TRY(check(::sqfs_dir_writer_end(entries_.get())));
    const auto attributes = TRY(write_attributes(directory));
    // The root's parent is no inode of the file system.
    const std::uint32_t above =
        &directory == &parent ? static_cast<std::uint32_t>(order_.size() + 1) : slot(parent).number;
    const OwnedInode made{::sqfs_dir_writer_create_inode(entries_.get(), 0, attributes, above)};
    if (made == nullptr) return check(SQFS_ERROR_ALLOC);
    // libsquashfs counts files, too, and directories twice.
    (made->base.type == SQFS_INODE_EXT_DIR ? made->data.dir_ext.nlink : made->data.dir.nlink) = folders + 2;
    return write_inode(*made, slot(directory), attributes);
  }  // NOLINT(clang-analyzer-unix.Malloc): OwnedInode frees it

  static std::uint16_t mode_of(const Inode& inode) {
    constexpr std::array kTypes{S_IFDIR, S_IFREG, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO};
    return static_cast<std::uint16_t>(kTypes.at(static_cast<std::size_t>(inode.kind)) | inode.mode);
  }

  /// Of anything but a directory.
  Result<OwnedInode> make_inode(Slot& slot) {
    const Inode& inode = *slot.inode;
    if (inode.kind == InodeKind::File) {
      OwnedInode made{std::exchange(slot.file, nullptr)};
      if (made == nullptr) return std::unexpected(check(SQFS_ERROR_ALLOC).error());
      if (slot.links > 1) {
        TRY(check(::sqfs_inode_make_extended(made.get())));
        made->data.file_ext.nlink = slot.links;
      }
      return made;
    }
    OwnedInode made{static_cast<sqfs_inode_generic_t*>(
        std::calloc(1, sizeof(sqfs_inode_generic_t) + inode.target.size() + 1))};  // NOLINT: sqfs_free() frees it
    if (made == nullptr) return std::unexpected(check(SQFS_ERROR_ALLOC).error());
    switch (inode.kind) {
      case InodeKind::Symlink:
        made->base.type = SQFS_INODE_SLINK;
        made->data.slink = {.nlink = slot.links, .target_size = static_cast<sqfs_u32>(inode.target.size())};
        std::ranges::copy(inode.target, reinterpret_cast<char*>(made->extra));  // zeros are behind it
        break;
      case InodeKind::Fifo:
        made->base.type = SQFS_INODE_FIFO;
        made->data.ipc.nlink = slot.links;
        break;
      default: {  // as Linux encodes them (kdev_t.h, new_encode_dev)
        made->base.type =
            static_cast<sqfs_u16>(inode.kind == InodeKind::CharacterDevice ? SQFS_INODE_CDEV : SQFS_INODE_BDEV);
        const std::uint32_t device =
            (inode.device_minor & 0xFF) | (inode.device_major << 8) | ((inode.device_minor & ~0xFFU) << 12);
        made->data.dev = {.nlink = slot.links, .devno = device};
      }
    }
    return made;
  }

  /// The number by which inodes name a set of attributes.
  Result<std::uint32_t> write_attributes(const Inode& inode) {
    if (inode.attributes.empty()) return kNoAttributes;
    TRY(check(::sqfs_xattr_writer_begin(attributes_.get(), 0)));
    for (const ExtendedAttribute& each : inode.attributes)
      TRY(check(::sqfs_xattr_writer_add(attributes_.get(), each.name.c_str(), each.value.data(), each.value.size())));
    sqfs_u32 set = kNoAttributes;
    TRY(check(::sqfs_xattr_writer_end(attributes_.get(), &set)));
    return set;
  }

  Status write_inode(sqfs_inode_generic_t& made, Slot& slot) {
    const auto attributes = TRY(write_attributes(*slot.inode));
    if (attributes != kNoAttributes) TRY(check(::sqfs_inode_make_extended(&made)));
    return write_inode(made, slot, attributes);
  }

  Status write_inode(sqfs_inode_generic_t& made, Slot& slot, std::uint32_t attributes) {
    const Inode& inode = *slot.inode;
    constexpr std::int64_t kLatest = 0xFFFFFFFF;  // 32 bits without a sign
    if (attributes != kNoAttributes) TRY(check(::sqfs_inode_set_xattr_index(&made, attributes)));
    made.base.mode = mode_of(inode);
    made.base.mod_time = static_cast<sqfs_u32>(std::clamp<std::int64_t>(inode.modified_s, 0, kLatest));
    made.base.inode_number = slot.number;
    made.base.uid_idx = TRY(index_of_owner(inode.uid));
    made.base.gid_idx = TRY(index_of_owner(inode.gid));
    sqfs_u64 block = 0;
    sqfs_u32 offset = 0;
    ::sqfs_meta_writer_get_position(inodes_.get(), &block, &offset);
    slot.reference = block << 16 | offset;
    slot.is_written = true;
    return check(::sqfs_meta_writer_write_inode(inodes_.get(), &made));
  }

  /// libsquashfs looks through all that it has. It takes one more than the superblock's 16 bits can count.
  Result<std::uint16_t> index_of_owner(std::uint32_t id) {
    const auto known = owner_indexes_.find(id);
    if (known != owner_indexes_.end()) return known->second;
    if (owner_indexes_.size() == std::numeric_limits<sqfs_u16>::max())
      return std::unexpected(check(SQFS_ERROR_OVERFLOW).error());
    sqfs_u16 index = 0;
    TRY(check(::sqfs_id_table_id_to_index(owners_.get(), id, &index)));
    owner_indexes_.emplace(id, index);
    return index;
  }

  Status write_tables(const Inode& root) {
    sqfs_file_t* const out = &output_.base;
    TRY(check(::sqfs_frag_table_write(fragments_.get(), out, &super_, compressor_.get())));
    TRY(check(::sqfs_dir_writer_write_export_table(entries_.get(), out, compressor_.get(), slot(root).number,
                                                   slot(root).reference, &super_)));
    TRY(check(::sqfs_id_table_write(owners_.get(), out, &super_, compressor_.get())));
    TRY(check(::sqfs_xattr_writer_flush(attributes_.get(), out, &super_, compressor_.get())));
    super_.bytes_used = output_.size;
    TRY(check(::sqfs_super_write(&super_, out)));
    return check(out->truncate(out, (output_.size + kPadding - 1) / kPadding * kPadding));
  }

  const Spool& spool_;
  const SquashfsOptions& options_;
  const std::function<void(std::uint64_t)>& on_data_;
  SquashfsFacts facts_;
  Output output_;
  sqfs_super_t super_{};
  // In the order in which they need each other: what stands below is destroyed first.
  Owned<sqfs_compressor_t> compressor_;
  Owned<sqfs_compressor_t> decompressor_;
  Owned<sqfs_block_writer_t> blocks_;
  Owned<sqfs_frag_table_t> fragments_;
  Owned<sqfs_id_table_t> owners_;
  Owned<sqfs_xattr_writer_t> attributes_;
  Owned<sqfs_meta_writer_t> inodes_;
  Owned<sqfs_meta_writer_t> directories_;
  Owned<sqfs_dir_writer_t> entries_;
  std::unordered_map<const Inode*, std::size_t> slots_;
  std::vector<Slot> order_;
  std::unordered_map<std::uint32_t, std::uint16_t> owner_indexes_;
  Owned<sqfs_block_processor_t> processor_;  // writes to the files' slots until it ends
};

}  // namespace

Result<SquashfsFacts> write_squashfs(const Inode& root, const Spool& spool, int file, const SquashfsOptions& options,
                                     const std::function<void(std::uint64_t)>& on_data) {
  return Writer{spool, file, options, on_data}.write(root);
}

}  // namespace mayfly::image
