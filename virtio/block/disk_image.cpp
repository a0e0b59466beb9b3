#include "virtio/block/disk_image.h"

#include "virtio/block/drive_layers.h"
#include "virtio/block/lock_holder.h"
#include "vmm/base/files.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <string_view>
#include <utility>

namespace mayfly {
namespace {

/// Physical blocks are a hint to guests; a file system's idea of a good block can be megabytes.
constexpr std::uint32_t kLargestPhysicalBlock = 64 * 1024;
/// Where the kernel does not say what O_DIRECT wants (before Linux 6.1): what suits every disk.
constexpr std::uint32_t kSafeAlignment = 4096;

/// What cannot be a disk; empty for what can.
std::string_view unusable_type(mode_t mode) noexcept {
  if (S_ISREG(mode) || S_ISBLK(mode)) return {};
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode)) return "a character device";
  return "no file";
}

Status check_type(mode_t mode, const std::string& who) {
  if (const std::string_view type = unusable_type(mode); !type.empty())
    return fail(ErrorKind::InvalidArgument, "{} is {}; give the path of a disk image or of a block device", who, type);
  return {};
}

/// Why open(2) failed, in the user's terms.
std::unexpected<Error> open_error(const std::string& who, const std::string& path, bool read_only) {
  const int reason = errno;
  const bool not_permitted = reason == EACCES || reason == EPERM;
  if (reason == EBUSY)
    return fail(ErrorKind::State,
                "{} is in use: the host has it mounted or in a volume, or another machine writes it; unmount it, stop "
                "that machine, or set is_read_only to true where all only read",
                who);
  if (reason == ENOENT)
    return fail(ErrorKind::NotFound, "{} does not exist; give the path of a disk image or of a block device", who);
  if (!read_only && (reason == EROFS || (not_permitted && ::faccessat(AT_FDCWD, path.c_str(), R_OK, AT_EACCESS) == 0)))
    return fail(ErrorKind::Permission,
                "{} can be read but not written by user {}, and the drive is to be writable; make the file writable or "
                "set is_read_only to true",
                who, ::geteuid());
  if (not_permitted)
    return fail(ErrorKind::Permission,
                "{} may not be opened by user {}; allow it to use the file and to search the directories above", who,
                ::geteuid());
  if (reason == EINVAL)
    return fail(ErrorKind::Unsupported,
                "{} cannot be opened for direct access: its file system has no O_DIRECT; set direct to false", who);
  errno = reason;
  return fail_errno(ErrorKind::System, "{} cannot be opened", who);
}

/// Who holds the lock that was refused: "mayfly (process 1234)", as far as it can be known.
std::string describe_holder(int fd, struct flock wanted, std::uint64_t inode, bool in_all_processes) {
  std::optional<int> pid;
  // A POSIX lock names its process; an open file description lock, as Mayfly's, says -1.
  if (::fcntl(fd, F_OFD_GETLK, &wanted) == 0 && wanted.l_type != F_UNLCK && wanted.l_pid > 0) pid = wanted.l_pid;
  if (!pid && we_hold_lock(inode)) pid = ::getpid();
  if (!pid && in_all_processes) pid = find_lock_holder(inode);
  if (!pid) return "another process";
  if (*pid == ::getpid()) return "another drive of this machine";
  const std::string name = process_name(*pid);
  return name.empty() ? fmt::format("process {}", *pid) : fmt::format("{} (process {})", name, *pid);
}

std::unexpected<Error> replaced(const std::string& who) {
  return fail(ErrorKind::State, "{} was replaced by another file while it was opened; try again", who);
}

const FoundFile* found_at(const std::string& path, std::span<const FoundFile> found) noexcept {
  const auto at = std::ranges::find(found, path, &FoundFile::path);
  return at == found.end() ? nullptr : &*at;
}

/// The same file by a description of its own. None where that cannot be had: in a jail, /proc/self of a machine's child is
/// its parent's.
OwnedFd open_once_more(int fd) {
  OwnedFd own{::open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat ours{};
  struct stat opened{};
  if (!own || ::fstat(fd, &ours) != 0 || ::fstat(own.get(), &opened) != 0) return {};
  return is_same_file(ours, opened) ? std::move(own) : OwnedFd{};
}

std::uint32_t power_of_two(std::uint64_t value, std::uint32_t least, std::uint32_t most) noexcept {
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(std::bit_floor(value), least, most));
}

std::uint64_t block_device_of(const struct stat& status) noexcept {
  return S_ISBLK(status.st_mode) ? status.st_rdev : 0;
}

std::int64_t modified_ns_of(const struct stat& status) {
  if (S_ISBLK(status.st_mode)) return 0;
  return std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
}

}  // namespace

Result<DiskImage> DiskImage::open(const DriveConfig& config, const DiskImage* predecessor,
                                  std::span<const FoundFile> found) {
  if (!config.base_paths.empty()) return open_layers(config, predecessor, found);
  return open_file({.drive_id = config.drive_id,
                    .field = "path_on_host",
                    .path = config.path_on_host,
                    .read_only = config.is_read_only,
                    .direct = config.direct,
                    .found = found},
                   predecessor);
}

Result<DiskImage> DiskImage::open_file(const FileOrder& order, const DiskImage* predecessor) {
  const std::string who = fmt::format("drive {}: {} {}", order.drive_id, order.field, order.path);
  if (order.path.empty())
    return fail(ErrorKind::InvalidArgument, "{} is empty; give the path of a disk image or of a block device", who);
  if (order.path.find('\0') != std::string::npos)
    return fail(ErrorKind::InvalidArgument, "drive {}: {} contains a NUL byte", order.drive_id, order.field);
  DiskImage image;
  image.path_ = order.path;
  image.read_only_ = order.read_only;
  const bool same_kind =
      predecessor != nullptr && predecessor->read_only_ == order.read_only && predecessor->direct() == order.direct;
  const bool shares = same_kind && predecessor->is_at(image.path_);
  if (auto opened = image.open_fd(order, who, shares ? predecessor : nullptr); !opened) return propagate(opened);
  if (auto looked = image.look(who); !looked) return propagate(looked);
  const FoundFile* found = found_at(order.path, order.found);
  if (found != nullptr && (found->device != image.identity_.device || found->inode != image.identity_.inode))
    return replaced(who);
  const auto search = predecessor == nullptr ? Search::AllProcesses : Search::ThisProcess;
  if (auto locked = image.lock(who, search); !locked) return propagate(locked);
  if (!order.direct) return image;
  if (auto opened = image.open_buffered(who); !opened) return propagate(opened);
  return image;
}

/// Opens path_, or shares the description of `predecessor`, with lock and claim, where there is one.
Status DiskImage::open_fd(const FileOrder& order, const std::string& who, const DiskImage* predecessor) {
  if (predecessor != nullptr) {
    fd_ = OwnedFd{::fcntl(predecessor->fd(), F_DUPFD_CLOEXEC, 0)};
    claimed_ = predecessor->claimed_;
    return fd_ ? Status{} : fail_errno(ErrorKind::System, "{} cannot be used", who);
  }
  // Looked at before it is opened: opening a character device can do things.
  struct stat status = {};
  const bool is_there = ::stat(path_.c_str(), &status) == 0;
  if (is_there)
    if (auto usable = check_type(status.st_mode, who); !usable) return usable;
  claimed_ = !read_only_ && block_device_of(status) != 0;
  const bool makes = !is_there && errno == ENOENT && order.may_make && found_at(path_, order.found) == nullptr;
  const int flags = (read_only_ ? O_RDONLY : O_RDWR) | (order.direct ? O_DIRECT : 0);
  const int claim = claimed_ ? O_EXCL : makes ? O_CREAT | O_EXCL : 0;
  fd_ = OwnedFd{::open(path_.c_str(), flags | claim | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, order.mode)};
  if (!fd_ && makes && errno == EEXIST) return replaced(who);
  if (!fd_) return open_error(who, path_, read_only_);
  if (makes) made_ = MadeFile{path_};
  // O_NONBLOCK was for what may have taken the path since; the ring would give EAGAIN instead of waiting.
  if (::fcntl(fd_.get(), F_SETFL, flags) != 0) return fail_errno(ErrorKind::System, "{} cannot be used", who);
  return {};
}

bool DiskImage::is_same_file(const DiskImage& other) const noexcept {
  if (block_device_ != 0 || other.block_device_ != 0) return block_device_ == other.block_device_;
  return identity_.device == other.identity_.device && identity_.inode == other.identity_.inode;
}

bool DiskImage::is_at(const std::string& path) const noexcept {
  struct stat status = {};
  return ::stat(path.c_str(), &status) == 0 && is(status);
}

bool DiskImage::is(const struct stat& status) const noexcept {
  if (const std::uint64_t number = block_device_of(status); number != 0 || block_device_ != 0)
    return number == block_device_;
  return status.st_dev == identity_.device && status.st_ino == identity_.inode;
}

void DiskImage::unlock() const noexcept {
  struct flock nothing = {};
  nothing.l_type = F_UNLCK;
  nothing.l_whence = SEEK_SET;
  (void)::fcntl(fd_.get(), F_OFD_SETLK, &nothing);  // it cannot fail, and would only keep others waiting
}

ImageIdentity DiskImage::present_identity() const noexcept {
  ImageIdentity identity = identity_;
  struct stat status = {};
  if (::fstat(fd_.get(), &status) != 0) return identity;
  identity.modified_ns = modified_ns_of(status);
  return identity;
}

Status DiskImage::sync() const {
  TRY(sync_data());
  return sync_map();
}

Status DiskImage::sync_map() const {
  if (layers_ == nullptr || read_only_) return {};
  auto settled = layers_->overlay().settle_map(fd_.get());
  return settled ? Status{} : propagate(settled, path_);
}

Result<OwnedFd> DiskImage::keep_open() const {
  OwnedFd fd{::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0)};
  if (!fd) return fail_errno(ErrorKind::System, "{} cannot be kept open to be synced", path_);
  return fd;
}

OwnedFd DiskImage::by_own_description(OwnedFd fd) {
  OwnedFd own = open_once_more(fd.get());
  return own ? std::move(own) : std::move(fd);
}

Status DiskImage::sync_data() const {
  if (read_only_) return {};
  // The kernel tells each open description of a failed write once, and the flushes of a guest that goes on must hear of it
  // as well. Nobody else uses an overlay while it is synced.
  const OwnedFd own = layers_ == nullptr ? open_once_more(fd_.get()) : OwnedFd{};
  if (::fsync(own ? own.get() : fd_.get()) == 0) return {};
  return fail_errno(ErrorKind::System, "{}: cannot put what the guest has written on stable storage", path_);
}

/// Type, size and blocks of the open file.
Status DiskImage::look(const std::string& who) {
  struct stat status = {};
  if (::fstat(fd_.get(), &status) != 0) return fail_errno(ErrorKind::System, "{} cannot be looked at", who);
  if (auto usable = check_type(status.st_mode, who); !usable) return usable;
  const bool is_device = S_ISBLK(status.st_mode);
  if (is_device && !read_only_ && !claimed_) return replaced(who);
  block_device_ = block_device_of(status);
  std::uint64_t size = static_cast<std::uint64_t>(std::max<off_t>(status.st_size, 0));
  if (is_device && ::ioctl(fd_.get(), BLKGETSIZE64, &size) != 0)
    return fail_errno(ErrorKind::System, "{} does not tell its size", who);
  // An empty file is a disk, too: a placeholder for an image that a host swaps in while the guest runs.
  if (size % kSectorSize != 0)
    return fail(ErrorKind::InvalidArgument,
                "{} has {} bytes, which is no multiple of {}; make it longer with truncate -s %{}", who, size,
                kSectorSize, kSectorSize);
  identity_ = {
      .device = status.st_dev, .inode = status.st_ino, .size_bytes = size, .modified_ns = modified_ns_of(status)};
  physical_block_size_ = power_of_two(static_cast<std::uint64_t>(std::max<blksize_t>(status.st_blksize, 1)),
                                      kSectorSize, kLargestPhysicalBlock);
  return measure_blocks(who, is_device);
}

Status DiskImage::measure_blocks(const std::string& who, bool is_device) {
  if (is_device) {
    int logical = 0;
    unsigned physical = 0;
    if (::ioctl(fd_.get(), BLKSSZGET, &logical) != 0 || ::ioctl(fd_.get(), BLKPBSZGET, &physical) != 0 || logical <= 0)
      return fail_errno(ErrorKind::System, "{} does not tell its block size", who);
    logical_block_size_ = power_of_two(static_cast<std::uint64_t>(logical), kSectorSize, kLargestPhysicalBlock);
    physical_block_size_ = power_of_two(physical, logical_block_size_, kLargestPhysicalBlock);
  }
  if ((::fcntl(fd_.get(), F_GETFL) & O_DIRECT) == 0) return {};
  memory_alignment_ = kSafeAlignment;
  file_alignment_ = std::max(logical_block_size_, kSafeAlignment);
  struct statx more = {};
  if (::statx(fd_.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &more) == 0 && (more.stx_mask & STATX_DIOALIGN) != 0) {
    if (more.stx_dio_offset_align == 0)
      return fail(ErrorKind::Unsupported,
                  "{} cannot be opened for direct access: its file system has no O_DIRECT for it; set direct to false",
                  who);
    memory_alignment_ = std::bit_ceil(std::max(more.stx_dio_mem_align, 1U));
    file_alignment_ = std::bit_ceil(more.stx_dio_offset_align);
  }
  physical_block_size_ = std::clamp(file_alignment_, physical_block_size_, kLargestPhysicalBlock);
  return {};
}

Status DiskImage::lock(const std::string& who, Search search) const {
  struct flock wanted = {};
  wanted.l_type = read_only_ ? F_RDLCK : F_WRLCK;
  wanted.l_whence = SEEK_SET;  // from 0, and length 0: to the end, wherever that is
  if (::fcntl(fd_.get(), F_OFD_SETLK, &wanted) == 0) return {};
  if (errno != EAGAIN && errno != EACCES)
    return fail_errno(ErrorKind::System, "{} cannot be locked; keep it on a file system that has locks", who);
  const std::string holder = describe_holder(fd_.get(), wanted, identity_.inode, search == Search::AllProcesses);
  return fail(ErrorKind::State, "{} is in use by {}, {}; {}", who, holder,
              read_only_ ? "which may write it" : "and this drive would write it",
              read_only_ ? "stop that one, or use a copy"
                         : "stop that one, use a copy, or set is_read_only to true where all only read");
}

/// A second description of the file, without O_DIRECT. It needs no claim: fd_ has it.
Status DiskImage::open_buffered(const std::string& who) {
  buffered_fd_ = OwnedFd{::open(path_.c_str(), (read_only_ ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (!buffered_fd_) return open_error(who, path_, read_only_);
  struct stat status = {};
  if (::fstat(buffered_fd_.get(), &status) != 0 || ::fcntl(buffered_fd_.get(), F_SETFL, 0) != 0)
    return fail_errno(ErrorKind::System, "{} cannot be looked at", who);
  if (!is(status)) return replaced(who);
  return {};
}

Result<DiskImage> DiskImage::duplicate() const {
  DiskImage twin;
  twin.path_ = path_;
  twin.read_only_ = read_only_;
  twin.claimed_ = claimed_;
  twin.block_device_ = block_device_;
  twin.logical_block_size_ = logical_block_size_;
  twin.physical_block_size_ = physical_block_size_;
  twin.memory_alignment_ = memory_alignment_;
  twin.file_alignment_ = file_alignment_;
  twin.identity_ = identity_;
  twin.layers_ = layers_;
  twin.fd_ = OwnedFd{::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0)};
  if (buffered_fd_) twin.buffered_fd_ = OwnedFd{::fcntl(buffered_fd_.get(), F_DUPFD_CLOEXEC, 0)};
  if (!twin.fd_ || (buffered_fd_ && !twin.buffered_fd_))
    return fail_errno(ErrorKind::System, "cannot keep {} open twice", path_);
  return twin;
}

}  // namespace mayfly
