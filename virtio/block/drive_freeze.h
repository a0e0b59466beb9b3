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
///   image.sync(), freeze->take(image)...       // the guest's memory is written
///   freeze->settle(image)                      // the name is there; the snapshot's state is written, and counts
///   freeze->keep()                             // else drop() has undone it all
///
/// Where the file system lets two files share blocks (FICLONE: Btrfs, XFS), the name is that of a copy, and the machine
/// keeps its image. Elsewhere the machine's overlay itself gets the name, and a new overlay has its place and its old
/// name; one system call exchanges both names. Neither copies data, whatever the drive holds. An overlay that was frozen
/// says that it is a layer: nobody opens it to be written, so what lies over it fits for ever.
///
/// A process that is killed leaves PATH.mayfly-new, which the next freeze to that path replaces; between settle() and the
/// moment at which the snapshot counts, it leaves the machine's overlay under the layer's name.
///
/// Nothing is in flight on the drive from prepare() to the end. Any thread, one at a time.
namespace mayfly {

class DriveFreeze {
 public:
  /// Makes a file for `path`. Errors, with the drive's id: it is only read, a block device, `path` is there already, or no
  /// file can be made there.
  [[nodiscard]] static Result<DriveFreeze> prepare(const DriveConfig& config, const DiskImage& image,
                                                   const std::string& path);
  DriveFreeze(DriveFreeze&&) noexcept = default;
  DriveFreeze& operator=(DriveFreeze&&) = delete;
  DriveFreeze(const DriveFreeze&) = delete;
  DriveFreeze& operator=(const DriveFreeze&) = delete;
  ~DriveFreeze() = default;

  /// That file: the copy, or the machine's overlay to come.
  [[nodiscard]] const DiskImage& made() const noexcept { return made_; }

  /// After the image's sync(). Waits for the disk. Errors: a plain image whose file system shares no blocks, another
  /// directory than the overlay's, too many layers.
  [[nodiscard]] Status take(const DiskImage& image);
  /// Gives names, and puts them on stable storage.
  [[nodiscard]] Status settle(const DiskImage& image);
  /// What has the name, once it is settled.
  [[nodiscard]] const ImageIdentity& identity() const noexcept { return identity_; }
  /// Undoes all. Waits for the disk, which must not keep names that were undone. Error: the machine's overlay has the
  /// layer's name, and says so.
  [[nodiscard]] Status drop(const DiskImage& image);
  /// Leaves all as it is now, and the copy to others.
  void keep() noexcept;

  /// Once it is kept: whether the image itself was taken.
  [[nodiscard]] bool became_layer() const noexcept { return !is_copy_; }
  /// The next overlay over `image`, whose file is a layer from now on. Only if it became one.
  [[nodiscard]] DiskImage put_over(DiskImage image) &&;

 private:
  DriveFreeze(const DriveConfig& config, const DiskImage& image, std::string path, DiskImage made);
  [[nodiscard]] Status copy(const DiskImage& image);
  [[nodiscard]] Status check_layer(const DiskImage& image) const;
  [[nodiscard]] Status give_name();
  [[nodiscard]] Status put_image_below(const DiskImage& image);

  std::string who_;  // how errors begin
  OverlayAccess access_;
  std::string image_path_;
  std::string path_;
  DiskImage made_;                       // removed with this, unless it is kept
  std::optional<Overlay> next_overlay_;  // in it
  ImageIdentity identity_{};
  bool is_copy_ = false;
  std::optional<BootId> boot_;  // of the image's overlay, before it became a layer
  bool exchanged_ = false;      // the image's name and the made file's
};

}  // namespace mayfly
