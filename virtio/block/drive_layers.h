#pragma once

#include "virtio/block/disk_image.h"
#include "virtio/block/overlay.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace mayfly {

/// What a drive's overlay is opened for.
[[nodiscard]] OverlayAccess access_of(const DriveConfig& config) noexcept;

/// The layers of a drive, below its top and that one's map. A DiskImage that has them is the top's file.
///
///   const auto run = layers.run(offset, length);       // who has the byte, and how many behind it
///   read(image.layer(run.layer).fd(), run.place, run.length)
class DriveLayers {
 public:
  /// Of one drive: each is an open file as long as the machine lives.
  static constexpr std::size_t kMost = 16;

  struct Below {
    DiskImage image;                   // read-only
    std::optional<Overlay> overlay{};  // all but the lowest, which is a raw image
  };
  /// Bytes of the drive that lie side by side in one layer's file, from `place` on.
  struct Run {
    std::size_t layer = 0;
    std::uint64_t place = 0;
    std::uint64_t length = 0;
  };

  DriveLayers(std::vector<Below> below, Overlay top) : below_(std::move(below)), overlay_(std::move(top)) {}

  /// The lowest first.
  [[nodiscard]] const std::vector<Below>& below() const noexcept { return below_; }
  [[nodiscard]] std::vector<Below> take_below() && noexcept { return std::move(below_); }
  /// The number of the layer that is on top.
  [[nodiscard]] std::size_t top() const noexcept { return below_.size(); }
  [[nodiscard]] Overlay& overlay() noexcept { return overlay_; }
  [[nodiscard]] const Overlay& overlay() const noexcept { return overlay_; }

  /// What the drive's bytes from `offset` on are read from; at most `length`, of which there is at least one.
  [[nodiscard]] Run run(std::uint64_t offset, std::uint64_t length) const noexcept {
    for (std::size_t layer = top(); layer > 0; --layer) {
      const Overlay& overlay = layer == top() ? overlay_ : *below_[layer].overlay;
      const Overlay::Run run = overlay.run(offset, length);
      length = run.length;
      if (run.is_present) return {.layer = layer, .place = overlay.place_of(offset), .length = length};
    }
    return {.layer = 0, .place = offset, .length = length};
  }

 private:
  std::vector<Below> below_;
  Overlay overlay_;
};

}  // namespace mayfly
