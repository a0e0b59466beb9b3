#pragma once

#include "virtio/block/disk_image.h"
#include "virtio/block/overlay.h"
#include "vmm/base/error.h"
#include "vmm/config/configuration.h"

#include <optional>
#include <string>

/// What a snapshot keeps of a drive while its machine goes on: the image as it is, under a name of its own.
///
///   auto freeze = DriveFreeze::prepare(config, image, path);
///   image.sync(), freeze->take(image)...       // the name has what the snapshot's guest knows
///   freeze->settle(image)                      // the snapshot is about to count
///   freeze->keep()                             // it does: what is destroyed before this has changed nothing
///
/// Where the file system lets two files share blocks (FICLONE: Btrfs, XFS), the name is that of a copy, and the machine
/// keeps its image. Elsewhere the machine's overlay itself gets the name: it is a layer from then on, which nobody
/// writes, and a new overlay has its place and its old name; one system call exchanges both names. Neither copies data,
/// whatever the drive holds.
///
/// Nothing is in flight on the drive from prepare() to the end. Any thread, one at a time.
namespace mayfly {

class DriveFreeze {
 public:
  /// Makes a file at `path`. Errors, with the drive's id: it is only read, a block device, `path` is there already, or no
  /// file can be made there.
  [[nodiscard]] static Result<DriveFreeze> prepare(const DriveConfig& config, const DiskImage& image,
                                                   const std::string& path);
  DriveFreeze(DriveFreeze&& other) noexcept;
  DriveFreeze& operator=(DriveFreeze&&) = delete;
  DriveFreeze(const DriveFreeze&) = delete;
  DriveFreeze& operator=(const DriveFreeze&) = delete;
  ~DriveFreeze();

  /// That file: the copy, or the machine's overlay to come.
  [[nodiscard]] const DiskImage& made() const noexcept { return made_; }

  /// After the image's sync(). Waits for the disk. Errors: a plain image whose file system shares no blocks, another file
  /// system than the overlay's, too many layers.
  [[nodiscard]] Status take(const DiskImage& image);
  /// What has the name, once it is taken.
  [[nodiscard]] const ImageIdentity& identity() const noexcept { return identity_; }
  /// Exchanges the names, where the image itself was taken, and puts them on stable storage.
  [[nodiscard]] Status settle(const DiskImage& image);
  /// Undoes what was done, as the destructor does, and waits for the disk, which must not have the image's name
  /// elsewhere.
  void drop() noexcept;
  /// Leaves all as it is now, and the copy to others.
  void keep() noexcept;

  /// Once it is kept: whether the image itself was taken.
  [[nodiscard]] bool became_layer() const noexcept { return !is_copy_; }
  /// The next overlay over `image`, whose file is a layer from now on. Only if it became one.
  [[nodiscard]] DiskImage put_over(DiskImage image) &&;

 private:
  DriveFreeze(const DriveConfig& config, const DiskImage& image, DiskImage made);
  [[nodiscard]] Status copy(const DiskImage& image);
  [[nodiscard]] Status take_itself(const DiskImage& image);

  std::string who_;  // how errors begin
  OverlayAccess access_;
  std::string image_path_;
  DiskImage made_;                       // removed with this, unless it is kept
  std::optional<Overlay> next_overlay_;  // in it
  ImageIdentity identity_{};
  bool is_copy_ = false;
  bool exchanged_ = false;  // the names, and they may have to be exchanged back
};

}  // namespace mayfly
