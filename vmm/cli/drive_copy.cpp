#include "vmm/cli/drive_copy.h"

#include "vmm/base/files.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

namespace mayfly {
namespace {

/// What is copied in one piece.
constexpr std::size_t kCopyAtOnce = 1 << 20;

/// Copies what is data of `length` bytes.
Status copy_data(int from, std::uint64_t place, int to, std::uint64_t offset, std::uint64_t length,
                 std::vector<std::byte>& buffer) {
  for (std::uint64_t done = 0; done < length;) {
    off_t data = ::lseek(from, static_cast<off_t>(place + done), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    const bool has_no_holes = data < 0 && errno == EINVAL;  // a block device
    if (has_no_holes) data = static_cast<off_t>(place + done);
    if (data < 0) return fail_errno(ErrorKind::System, "a layer cannot be searched for data");
    done = std::max(done, static_cast<std::uint64_t>(data) - place);
    const off_t hole =
        has_no_holes ? static_cast<off_t>(place + length) : ::lseek(from, static_cast<off_t>(place + done), SEEK_HOLE);
    if (hole < 0) return fail_errno(ErrorKind::System, "a layer cannot be searched for holes");
    const std::uint64_t end = std::min(length, static_cast<std::uint64_t>(hole) - place);
    while (done < end) {
      const auto piece = std::span{buffer}.first(std::min<std::uint64_t>(buffer.size(), end - done));
      errno = 0;
      if (read_all_at(from, piece, place + done) < piece.size())
        return errno == 0 ? fail(ErrorKind::InvalidArgument, "a layer ends before the drive does")
                          : fail_errno(ErrorKind::System, "a layer cannot be read");
      if (!write_all_at(to, piece, offset + done)) return fail_errno(ErrorKind::System, "it cannot be written");
      done += piece.size();
    }
  }
  return {};
}

}  // namespace

Status copy_drive(const DiskImage& image, int output) {
  if (::ftruncate(output, static_cast<off_t>(image.size_bytes())) != 0)
    return fail_errno(ErrorKind::System, "it cannot be made {} bytes long", image.size_bytes());
  std::vector<std::byte> buffer(kCopyAtOnce);
  const DriveLayers& layers = *image.layers();
  for (std::uint64_t at = 0; at < image.size_bytes();) {
    const DriveLayers::Run run = layers.run(at, image.size_bytes() - at);
    TRY(copy_data(image.layer(run.layer).fd(), run.place, output, at, run.length, buffer));
    at += run.length;
  }
  if (::fsync(output) != 0) return fail_errno(ErrorKind::System, "it cannot be put on stable storage");
  return {};
}

Status merge_overlays(const DiskImage& image, int output) {
  const DriveLayers& layers = *image.layers();
  const Overlay& lower = *layers.below().back().overlay;
  OverlayOrder order{.who = "it",
                     .below = lower.header().below,
                     .access = OverlayAccess::Ordered,
                     .block_size = std::min(lower.header().block_size, layers.overlay().header().block_size)};
  order.boot = TRY(read_boot_id());
  auto merged = TRY(Overlay::open(output, order));
  std::vector<std::byte> buffer(kCopyAtOnce);
  for (std::uint64_t at = 0; at < image.size_bytes();) {
    const DriveLayers::Run run = layers.run(at, image.size_bytes() - at);
    if (run.layer + 1 >= layers.top()) {
      TRY(copy_data(image.layer(run.layer).fd(), run.place, output, merged.place_of(at), run.length, buffer));
      const std::uint64_t first = at / order.block_size;
      merged.map().publish(first, (at + run.length - 1) / order.block_size + 1 - first);
    }
    at += run.length;
  }
  return merged.settle(output);
}

}  // namespace mayfly
