#include "virtio/block/drive_freeze.h"

#include "virtio/block/drive_layers.h"
#include "vmm/base/files.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
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

}  // namespace

DriveFreeze::DriveFreeze(const DriveConfig& config, const DiskImage& image, DiskImage made)
    : who_(fmt::format("drive {}: frozen_drives: {}", config.drive_id, made.path())),
      access_(access_of(config)),
      image_path_(image.path()),
      made_(std::move(made)) {}

DriveFreeze::DriveFreeze(DriveFreeze&& other) noexcept
    : who_(std::move(other.who_)),
      access_(other.access_),
      image_path_(std::move(other.image_path_)),
      made_(std::move(other.made_)),
      next_overlay_(std::move(other.next_overlay_)),
      identity_(other.identity_),
      is_copy_(other.is_copy_),
      exchanged_(std::exchange(other.exchanged_, false)) {}

DriveFreeze::~DriveFreeze() { drop(); }

void DriveFreeze::drop() noexcept {
  if (!std::exchange(exchanged_, false)) return;
  if (!exchange_names(made_.path(), image_path_)) made_.keep();  // else the image would be removed
  (void)sync_directory_of(image_path_, "path_on_host");
}

void DriveFreeze::keep() noexcept {
  exchanged_ = false;
  made_.keep();
  if (is_copy_) made_.unlock();
}

Result<DriveFreeze> DriveFreeze::prepare(const DriveConfig& config, const DiskImage& image, const std::string& path) {
  const std::string who = fmt::format("drive {}: frozen_drives: {}", config.drive_id, path);
  if (image.read_only())
    return fail(ErrorKind::InvalidArgument, "{}: the drive is only read, and stays as it is: leave it out", who);
  if (image.is_block_device())
    return fail(ErrorKind::InvalidArgument,
                "{}: the drive's {} is a block device, which cannot be frozen: leave it out, and copy it by its own "
                "means while the machine is paused",
                who, image.path());
  auto made = TRY(DiskImage::make_file(config.drive_id, "frozen_drives:", path));
  return DriveFreeze{config, image, std::move(made)};
}

Status DriveFreeze::take(const DiskImage& image) {
  TRY(copy(image));
  if (!is_copy_) TRY(take_itself(image));
  return {};
}

/// Sets is_copy_ where the file system can do that.
Status DriveFreeze::copy(const DiskImage& image) {
  if (::ioctl(made_.fd(), FICLONE, image.fd()) != 0) {
    if (shares_no_blocks(errno)) return {};
    return fail_errno(ErrorKind::System, "{} cannot get the blocks of {}", who_, image_path_);
  }
  is_copy_ = true;
  if (::fsync(made_.fd()) != 0) return fail_errno(ErrorKind::System, "{} cannot be put on stable storage", who_);
  identity_ = made_.present_identity();
  identity_.size_bytes = image.size_bytes();
  return {};
}

/// The image is to get the name, and the file that has it is to be the overlay over it.
Status DriveFreeze::take_itself(const DiskImage& image) {
  const DriveLayers* layers = image.layers();
  if (layers == nullptr)
    return fail(
        ErrorKind::Unsupported,
        "{}: its file system lets no two files share blocks (FICLONE), and a plain image has no layers: give the "
        "drive an overlay over its image (base_path), or copy {} while the machine is paused",
        who_, image_path_);
  if (layers->top() + 1 >= DriveLayers::kMost)
    return fail(ErrorKind::TooLarge,
                "{}: its file system lets no two files share blocks (FICLONE), so the overlay would be one layer more, "
                "and the drive has {} already, the most there are; merge some (mayfly drive commit)",
                who_, DriveLayers::kMost);
  identity_ = image.present_identity();
  if (made_.identity().device != identity_.device)
    return fail(ErrorKind::InvalidArgument,
                "{}: that is another file system than that of {}, whose name it is to be; give a path beside it", who_,
                image_path_);
  OverlayOrder order{.who = who_,
                     .below = {.size_bytes = identity_.size_bytes,
                               .modified_ns = identity_.modified_ns,
                               .id = layers->overlay().header().id},
                     .access = access_,
                     .block_size = layers->overlay().header().block_size};
  order.boot = TRY(read_boot_id());
  next_overlay_ = TRY(Overlay::open(made_.fd(), order));
  if (::fsync(made_.fd()) != 0) return fail_errno(ErrorKind::System, "{} cannot be put on stable storage", who_);
  return {};
}

Status DriveFreeze::settle(const DiskImage& image) {
  if (!is_copy_) {
    if (!image.is_at(image_path_))
      return fail(ErrorKind::State, "{}: {} is not the drive's overlay any more: it was moved, or replaced", who_,
                  image_path_);
    if (!exchange_names(made_.path(), image_path_))
      return fail_errno(ErrorKind::System,
                        "{} and {} cannot exchange their names; give a path beside it, on a file system that can "
                        "(RENAME_EXCHANGE)",
                        who_, image_path_);
    exchanged_ = true;
    TRY(sync_directory_of(image_path_, "path_on_host"));
  }
  return sync_directory_of(made_.path(), "frozen_drives");
}

DiskImage DriveFreeze::put_over(DiskImage image) && {
  const std::string layer = made_.path();
  made_.lie_over(std::move(image), layer, std::move(*next_overlay_), image_path_);
  return std::move(made_);
}

}  // namespace mayfly
