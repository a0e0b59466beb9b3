#include "virtio/block/drive_freeze.h"

#include "virtio/block/drive_layers.h"
#include "vmm/base/files.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

namespace mayfly {
namespace {

/// What a file system says that cannot share these files' blocks.
bool shares_no_blocks(int error_number) noexcept {
  return error_number == EOPNOTSUPP || error_number == EXDEV || error_number == EINVAL || error_number == ENOTTY ||
         error_number == ENOSYS;
}

bool exchange_names(const std::string& one, const std::string& other) noexcept {
  return ::renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) == 0;
}

bool is_there(const std::string& path) noexcept {
  struct stat status = {};
  return ::lstat(path.c_str(), &status) == 0;
}

bool is_link(const std::string& path) noexcept {
  struct stat status = {};
  return ::lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode);
}

}  // namespace

DriveFreeze::DriveFreeze(const DriveConfig& config, const DiskImage& image, std::string path, DiskImage made)
    : who_(fmt::format("drive {}: frozen_drives: {}", config.drive_id, path)),
      access_(access_of(config)),
      image_path_(image.path()),
      path_(std::move(path)),
      made_(std::move(made)) {}

Result<DriveFreeze> DriveFreeze::prepare(const DriveConfig& config, const DiskImage& image, const std::string& path) {
  const std::string who = fmt::format("drive {}: frozen_drives: {}", config.drive_id, path);
  if (image.read_only())
    return fail(ErrorKind::InvalidArgument, "{}: the drive is only read, and stays as it is: leave it out", who);
  if (image.is_block_device())
    return fail(ErrorKind::InvalidArgument,
                "{}: the drive's {} is a block device, which cannot be frozen: leave it out, and copy it by its own "
                "means while the machine is paused",
                who, image.path());
  if (is_there(path)) return fail(ErrorKind::InvalidArgument, "{} is there already; name a file that is not", who);
  if (auto directory = open_directory_of(path, "frozen_drives"); !directory) return propagate(directory);
  struct stat status = {};
  if (::fstat(image.fd(), &status) != 0) return fail_errno(ErrorKind::System, "{} cannot be looked at", image.path());
  auto made = TRY(DiskImage::make_file(config, "frozen_drives:", new_name(path), status.st_mode & 0777));
  return DriveFreeze{config, image, path, std::move(made)};
}

Status DriveFreeze::take(const DiskImage& image) {
  TRY(copy(image));
  return is_copy_ ? Status{} : check_layer(image);
}

/// Sets is_copy_ where the file system can do that.
Status DriveFreeze::copy(const DiskImage& image) {
  if (::ioctl(made_.fd(), FICLONE, image.fd()) != 0) {
    if (image.layers() != nullptr && shares_no_blocks(errno)) return {};
    if (shares_no_blocks(errno))
      return fail_errno(
          ErrorKind::Unsupported,
          "{} cannot share the blocks of {} (FICLONE), and a plain image is not copied: give a path in the "
          "same directory, of Btrfs or XFS, or give the drive an overlay over its image (base_path)",
          who_, image_path_);
    return fail_errno(ErrorKind::System, "{} cannot get the blocks of {}", who_, image_path_);
  }
  is_copy_ = true;
  if (image.layers() != nullptr) {
    OverlayOrder order{.who = who_, .checks_below = false};
    order.boot = TRY(read_boot_id());
    auto overlay = TRY(Overlay::open(made_.fd(), order));
    TRY(overlay.become_layer(made_.fd(), Overlay::LayerId::Renewed));
  }
  if (::fsync(made_.fd()) != 0) return fail_errno(ErrorKind::System, "{} cannot be put on stable storage", who_);
  return {};
}

/// Whether the overlay can get the name itself.
Status DriveFreeze::check_layer(const DiskImage& image) const {
  if (image.layers()->top() + 1 >= DriveLayers::kMost)
    return fail(
        ErrorKind::TooLarge,
        "{}: the file system lets no two files share blocks (FICLONE), so the overlay would be one layer more, and "
        "the drive has {} already, the most there are: stop the machine, and put the topmost into those below "
        "(mayfly drive commit)",
        who_, DriveLayers::kMost);
  if (!is_same_file(directory_of(path_), directory_of(image_path_)))
    return fail(ErrorKind::InvalidArgument,
                "{}: the file system lets no two files share blocks (FICLONE), so {} is to exchange names with a new "
                "overlay; give a path in its directory",
                who_, image_path_);
  if (is_link(image_path_) || !image.is_at(image_path_))
    return fail(ErrorKind::State,
                "{}: {} is not the drive's overlay itself: it is a link, or was moved or replaced; give the drive the "
                "path of the file",
                who_, image_path_);
  return {};
}

Status DriveFreeze::settle(const DiskImage& image) {
  if (!is_copy_) return put_image_below(image);
  TRY(give_name());
  identity_ = made_.present_identity();
  identity_.size_bytes = image.size_bytes();
  return sync_directory_of(path_, "frozen_drives");
}

Status DriveFreeze::give_name() {
  if (made_.give_name(path_)) return {};
  if (errno == EEXIST)
    return fail(ErrorKind::State, "{} was made by another process while the snapshot was written", who_);
  return fail_errno(ErrorKind::System, "{} cannot be made", who_);
}

Status DriveFreeze::put_image_below(const DiskImage& image) {
  TRY(check_layer(image));
  Overlay& overlay = image.layers()->overlay();
  boot_ = overlay.header().boot;
  TRY(overlay.become_layer(image.fd(), Overlay::LayerId::Same));
  identity_ = image.present_identity();
  OverlayOrder order{
      .who = who_,
      .below = {.size_bytes = identity_.size_bytes, .modified_ns = identity_.modified_ns, .id = overlay.header().id},
      .access = access_,
      .block_size = overlay.header().block_size};
  order.boot = TRY(read_boot_id());
  next_overlay_ = TRY(Overlay::open(made_.fd(), order));
  if (::fsync(made_.fd()) != 0) return fail_errno(ErrorKind::System, "{} cannot be put on stable storage", who_);
  TRY(give_name());
  if (!exchange_names(path_, image_path_))
    return fail_errno(ErrorKind::System,
                      "{} and {} cannot exchange their names; use a file system that can do that (RENAME_EXCHANGE)",
                      who_, image_path_);
  exchanged_ = true;
  made_.keep();  // its name is the image's
  return sync_directory_of(path_, "frozen_drives");
}

Status DriveFreeze::drop(const DiskImage& image) {
  // Durable before it has its name back: a power cut must not leave a layer there, which would be refused.
  const Status topped = boot_ ? image.layers()->overlay().become_top(image.fd(), *boot_) : Status{};
  std::string left;
  if (topped)
    boot_.reset();  // else the next one tries again
  else
    left = fmt::format("the machine's overlay {} may be taken for a layer when it is opened next: {}", image_path_,
                       topped.error().message);
  if (exchanged_) {
    if (!exchange_names(path_, image_path_))
      return fail_errno(ErrorKind::System,
                        "{}{}the machine's overlay {} is called {} now, and cannot get its name back", left,
                        left.empty() ? "" : "; ", image_path_, path_);
    exchanged_ = false;
    (void)::unlink(path_.c_str());
    if (auto synced = sync_directory_of(path_, "frozen_drives"); !synced)
      return topped ? synced : fail(ErrorKind::System, "{}; {}", left, synced.error().message);
  }
  made_.discard();
  if (topped) return {};
  return fail(topped.error().kind, "{}", left);
}

void DriveFreeze::keep() noexcept {
  made_.keep();
  if (is_copy_) made_.unlock();  // others may have it
}

DiskImage DriveFreeze::put_over(DiskImage image) && {
  made_.lie_over(std::move(image), path_, std::move(*next_overlay_), image_path_);
  return std::move(made_);
}

}  // namespace mayfly
