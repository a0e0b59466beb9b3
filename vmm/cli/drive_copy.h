#pragma once

#include "virtio/block/drive_layers.h"
#include "vmm/base/error.h"

/// Files that have what layers of a drive have. Each is written whole and put on stable storage; holes stay holes. Errors
/// say nothing of the file's name.
namespace mayfly {

/// A raw image of what a guest sees of a drive in layers.
[[nodiscard]] Status copy_drive(const DiskImage& image, int output);
/// An overlay in the place of the drive's two topmost layers, which both are overlays.
[[nodiscard]] Status merge_overlays(const DiskImage& image, int output);

}  // namespace mayfly
