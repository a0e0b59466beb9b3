#pragma once

#include "virtio/block/disk_image_state.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"
#include "vmm/config/configuration.h"

#include <unistd.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

struct stat;

/// The file behind a drive: a regular file or a block device of the host, opened, checked and locked.
///
///   auto image = DiskImage::open(config);
///   if (!image) return propagate(image);          // a sentence for the user, with the field, the path and the remedy
///   image->sectors(), image->fd()...
///
/// The lock is advisory and on the whole file: any number of machines may read an image together, a machine that writes
/// it has it alone. It is of the open-file-description kind (F_OFD_SETLK), so it holds between two drives of one
/// process as well, and ends with the last descriptor of the image, whatever else the process closes.
///
/// Such a lock belongs to an inode, and a block device has one for each of its nodes: two jails' nodes of one device
/// lock apart. A block device that is written is therefore opened with O_EXCL as well: the kernel gives that claim once
/// a device, and not while the device is mounted. A reader of a block device makes no claim.
///
/// A drive in layers (base_paths) has an overlay in the place of an image: see drive_layers.h.
///
/// Move-only. Opening and closing make system calls; the rest are plain values. Any thread.
namespace mayfly {

class DriveLayers;
class Overlay;

/// The unit of a drive's capacity and of every request's place: 512 bytes, whatever the block size (virtio 1.2, 5.2.4).
inline constexpr std::uint64_t kSectorSize = 512;

/// A file that was made for a purpose, and is removed again unless it is kept: it has not come to that.
class MadeFile {
 public:
  MadeFile() = default;
  explicit MadeFile(std::string path) noexcept : path_(std::move(path)) {}
  MadeFile(MadeFile&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  MadeFile& operator=(MadeFile&& other) noexcept {
    std::swap(path_, other.path_);
    return *this;
  }
  ~MadeFile() {
    if (!path_.empty()) (void)::unlink(path_.c_str());
  }
  void keep() noexcept { path_.clear(); }

 private:
  std::string path_;
};

/// What an earlier look has found at a path.
struct FoundFile {
  std::string path;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
};

class DiskImage {
 public:
  /// Opens config.path_on_host, read-only or not, direct or not, and locks it. Errors, each with its remedy: no such
  /// file, not permitted, nothing that can be a disk (a directory, FIFO, socket or character device), a size that is no
  /// whole number of sectors, not writable though the drive is, no O_DIRECT there, locked or claimed by another. Of a
  /// drive in layers it is the overlay that is opened, and made where there is none, over layers that are read-only;
  /// errors are Overlay::open()'s as well.
  ///
  /// A file, or layer, whose path is among `found` must be the one that was found there: any other is an error, before it is
  /// written to, and none is made.
  [[nodiscard]] static Result<DiskImage> open(const DriveConfig& config, std::span<const FoundFile> found = {}) {
    return open(config, nullptr, found);
  }
  /// The same for a drive that has `predecessor` open: where that is the same file, its lock is shared instead of
  /// refused, so that a drive can be given its own image again after it has grown. A guest may be running: who holds a
  /// lock is not looked for in other processes, since reading all their descriptors takes longer than its I/O can wait.
  [[nodiscard]] static Result<DiskImage> open(const DriveConfig& config, const DiskImage& predecessor,
                                              std::span<const FoundFile> found = {}) {
    return open(config, &predecessor, found);
  }

  /// Makes an empty file of that mode, and locks it; it is removed as an overlay is that open() has made. A leftover that
  /// nobody has locked is replaced. Errors: another process makes it; as open().
  [[nodiscard]] static Result<DiskImage> make_file(const DriveConfig& config, std::string_view field,
                                                   const std::string& path, mode_t mode);
  /// Renames such a file, and replaces none. Error: errno; EEXIST: there is one.
  [[nodiscard]] bool give_name(const std::string& path) noexcept;
  /// Removes such a file, and what it has, before its descriptor is closed.
  void discard() noexcept;
  /// Makes this the drive's overlay, under `path`, over `image` and its layers. That was the overlay until now, and is a
  /// layer whose name is `layer_path`, which others may read.
  void lie_over(DiskImage image, const std::string& layer_path, Overlay overlay, const std::string& path);

  /// An overlay that open() has made is removed with its image, unless this was called: a drive has it.
  void keep() noexcept { made_.keep(); }

  /// The same open file once more, with the same lock: it ends with the last of them. Error: no descriptors left.
  [[nodiscard]] Result<DiskImage> duplicate() const;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  /// Only with direct(): the same file through the page cache, for what is not aligned as O_DIRECT wants it. The host
  /// keeps both views coherent.
  [[nodiscard]] int buffered_fd() const noexcept { return buffered_fd_.get(); }
  [[nodiscard]] bool read_only() const noexcept { return read_only_; }
  [[nodiscard]] bool direct() const noexcept { return static_cast<bool>(buffered_fd_); }

  /// Null: a plain image. Requests are the drive's, places in the file are its overlay's.
  [[nodiscard]] DriveLayers* layers() const noexcept { return layers_.get(); }

  /// Of a drive in layers, the file of that one: this image, on top, or one below it.
  [[nodiscard]] const DiskImage& layer(std::size_t number) const noexcept;

  /// Of the drive.
  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return identity_.size_bytes; }
  [[nodiscard]] std::uint64_t sectors() const noexcept { return identity_.size_bytes / kSectorSize; }
  /// The least that a guest may address: 512, or what a host's block device says. Not more for a file under O_DIRECT:
  /// partition tables count in this unit, so it must not hang on how the image is opened.
  [[nodiscard]] std::uint32_t logical_block_size() const noexcept { return logical_block_size_; }
  /// What is written without reading first; at least logical_block_size(), a power of two, at most 64 KiB.
  [[nodiscard]] std::uint32_t physical_block_size() const noexcept { return physical_block_size_; }
  /// What O_DIRECT asks of addresses in memory, and of places and lengths in the file: powers of two.
  [[nodiscard]] std::uint32_t memory_alignment() const noexcept { return memory_alignment_; }
  [[nodiscard]] std::uint32_t file_alignment() const noexcept { return file_alignment_; }
  /// As it was when opened, before anything was done to it. The size is the drive's.
  [[nodiscard]] const ImageIdentity& identity() const noexcept { return identity_; }
  /// As it is now; of a host's block device, which has no time of change, modified_ns is 0.
  [[nodiscard]] ImageIdentity present_identity() const noexcept;
  /// Puts what was written on stable storage, and the time of change with it (fsync(2)): a snapshot records that time.
  /// Of an overlay its map as well: nothing is in flight then. Waits for the disk. A failure of a plain image is kept from
  /// no flush that is under way by fd(); who asks later may be told that all is well.
  [[nodiscard]] Status sync() const;
  /// The same without an overlay's map.
  [[nodiscard]] Status sync_data() const;
  /// And that map alone, after sync_data(). An error loses nothing: whoever syncs next writes it again.
  [[nodiscard]] Status sync_map() const;
  /// Another descriptor of the image's. Error: none is left.
  [[nodiscard]] Result<OwnedFd> keep_open() const;
  /// The same file by a description of its own, for an fsync(2) later: the kernel tells it of each write that fails from now
  /// on, whoever else is told. Where none can be had, what was given. May wait for the disk.
  [[nodiscard]] static OwnedFd by_own_description(OwnedFd fd);

  [[nodiscard]] bool is_block_device() const noexcept { return block_device_ != 0; }
  /// Whether both are one file, or one block device by whichever nodes.
  [[nodiscard]] bool is_same_file(const DiskImage& other) const noexcept;
  /// Whether the file at `path` is this one; false where there is none.
  [[nodiscard]] bool is_at(const std::string& path) const noexcept;
  /// Ends the lock, also for duplicates. The claim on a block device ends when the image is closed.
  void unlock() const noexcept;

 private:
  DiskImage() = default;
  /// A file of a drive.
  struct FileOrder {
    const std::string& drive_id;
    std::string_view field;  ///< Which names it.
    const std::string& path;
    bool read_only = false;
    bool direct = false;
    bool may_make = false;  ///< Where it is not there.
    std::span<const FoundFile> found{};
    mode_t mode = 0600;  ///< Of one that is made.
  };
  [[nodiscard]] static Result<DiskImage> open(const DriveConfig& config, const DiskImage* predecessor,
                                              std::span<const FoundFile> found);
  [[nodiscard]] static Result<DiskImage> open_file(const FileOrder& order, const DiskImage* predecessor);
  [[nodiscard]] static Result<DiskImage> open_layers(const DriveConfig& config, const DiskImage* predecessor,
                                                     std::span<const FoundFile> found);
  [[nodiscard]] Status open_fd(const FileOrder& order, const std::string& who, const DiskImage* predecessor);
  [[nodiscard]] bool is(const struct stat& status) const noexcept;
  [[nodiscard]] Status look(const std::string& who);
  [[nodiscard]] Status measure_blocks(const std::string& who, bool is_device);
  /// Where others may be looked through for who holds the lock.
  enum class Search { ThisProcess, AllProcesses };
  [[nodiscard]] Status lock(const std::string& who, Search search) const;
  [[nodiscard]] Status open_buffered(const std::string& who);

  std::string path_;
  OwnedFd fd_;
  OwnedFd buffered_fd_;  // only with O_DIRECT
  bool read_only_ = false;
  bool claimed_ = false;            // opened with O_EXCL
  std::uint64_t block_device_ = 0;  // its number; 0: a regular file
  std::uint32_t logical_block_size_ = kSectorSize;
  std::uint32_t physical_block_size_ = kSectorSize;
  std::uint32_t memory_alignment_ = 1;
  std::uint32_t file_alignment_ = 1;
  ImageIdentity identity_;
  MadeFile made_;  // by this open
  std::shared_ptr<DriveLayers> layers_;
};

}  // namespace mayfly
