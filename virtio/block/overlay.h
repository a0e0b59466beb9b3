#pragma once

#include "virtio/block/overlay_format.h"
#include "virtio/block/overlay_map.h"

#include <cstdint>
#include <string>

/// An overlay's file, opened: its header and its map.
///
///   auto overlay = Overlay::open(fd, {.who = ..., .below = ..., .boot = boot, .access = OverlayAccess::Ordered});
///   overlay->map().is_present(block) ? read(fd, overlay->place_of(offset)) : ...
///
/// The descriptor is its owner's, who has locked the file. What waits for a disk says so.
namespace mayfly {

enum class OverlayAccess : std::uint8_t {
  ReadOnly,
  Ordered,    ///< Written; what a guest has flushed stays whatever happens to the host.
  Unordered,  ///< Written; the guest does not flush, and a power cut may mix up what it wrote (cache_type Unsafe).
};

struct OverlayOrder {
  std::string who{};         ///< How errors begin.
  LayerIdentity below{};     ///< What it is to lie over.
  bool checks_below = true;  ///< False: it may lie over anything, and is only looked at.
  BootId boot{};             ///< The host's.
  OverlayAccess access = OverlayAccess::ReadOnly;
  std::uint32_t block_size = kOverlayBlockSize;  ///< Of one that is made.
};

class Overlay {
 public:
  /// Opens the overlay in an open file. A file without any data, whatever its size, becomes an empty one, unless it is
  /// only read. Waits for the disk where the host was started again since the overlay was written. Of one that is there,
  /// no block changes, and so its time of change stays; but not where another user owns the file. Errors: no overlay,
  /// damaged, cut short, over another layer or one that has changed; those of the file system.
  [[nodiscard]] static Result<Overlay> open(int fd, const OverlayOrder& order);

  [[nodiscard]] const OverlayHeader& header() const noexcept { return header_; }
  [[nodiscard]] OverlayMap& map() noexcept { return map_; }
  [[nodiscard]] const OverlayMap& map() const noexcept { return map_; }
  /// Where the drive's byte `offset` is in the file.
  [[nodiscard]] std::uint64_t place_of(std::uint64_t offset) const noexcept {
    return map_.layout().data_offset + offset;
  }
  /// The run of bytes from `offset` on, at most `length`, of blocks that are all there, or all not there.
  struct Run {
    bool is_present = false;
    std::uint64_t length = 0;
  };
  [[nodiscard]] Run run(std::uint64_t offset, std::uint64_t length) const noexcept;

  /// Puts all that is there on stable storage, and that it is there. Waits for the disk. Nothing is written meanwhile.
  [[nodiscard]] Status settle(int fd);
  /// The second half of that, once the data is there. An error loses nothing: the next one, or a flush, repeats it.
  [[nodiscard]] Status settle_map(int fd);
  /// Settled: makes it a layer, which is not opened to be written any more, and shows the same in every boot. Renewed: with
  /// an id of its own, since it is a copy. Waits for the disk. The time of change stays, as by open(). Error: the file
  /// system's.
  enum class LayerId { Same, Renewed };
  [[nodiscard]] Status become_layer(int fd, LayerId id);
  /// Takes that back, in this boot of the host or, for one that is not ordered, in all. The rest as become_layer().
  [[nodiscard]] Status become_top(int fd, const BootId& boot);
  /// Drops all that was written since the overlay was made: the layer below shows everywhere. Nothing is in flight.
  /// Waits for the disk only where a flush has made blocks durable: a power cut amid this must not show their holes.
  /// Where the file system punches no holes, the blocks' space is not given back. Error: the file system's; the overlay
  /// has then kept nothing, or all.
  [[nodiscard]] Status empty(int fd);

 private:
  Overlay(OverlayHeader header, OverlayMap map) : header_(header), map_(std::move(map)) {}
  [[nodiscard]] static Result<Overlay> make(int fd, const OverlayOrder& order);
  [[nodiscard]] Status load(int fd, const OverlayOrder& order);
  [[nodiscard]] Status load_durable(int fd, const std::string& who);
  [[nodiscard]] Status adopt(int fd, const BootId& boot, const std::string& who);
  [[nodiscard]] Status write_volatile(int fd, const std::string& who) const;
  [[nodiscard]] Status write_header(int fd, const std::string& who);
  [[nodiscard]] Status drop_content(int fd, const std::string& who) const;

  OverlayHeader header_;
  OverlayMap map_;
};

}  // namespace mayfly
