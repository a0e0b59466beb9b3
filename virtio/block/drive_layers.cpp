#include "virtio/block/drive_layers.h"

#include "vmm/base/files.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mayfly {
namespace {

/// What a layer is for the one above it.
LayerIdentity identity_of(const DiskImage& image, const Overlay* overlay) {
  return {.size_bytes = overlay == nullptr ? image.size_bytes() : overlay->header().drive_size,
          .modified_ns = image.identity().modified_ns,
          .id = overlay == nullptr ? OverlayId{} : overlay->header().id};
}

std::string name_of_layer(std::size_t place, std::size_t count) {
  return count == 1 ? "base_path" : fmt::format("base_paths[{}]", place);
}

Status check_layers(const DriveConfig& config) {
  if (config.base_paths.size() >= DriveLayers::kMost)
    return fail(ErrorKind::TooLarge,
                "drive {}: base_paths names {} files, and a drive has at most {} layers with its own; "
                "put some into those below (mayfly drive commit)",
                config.drive_id, config.base_paths.size(), DriveLayers::kMost);
  if (config.direct)
    return fail(ErrorKind::InvalidArgument,
                "drive {}: direct is true, and a drive with a base_path is read through the page cache, which all "
                "machines share; set direct to false",
                config.drive_id);
  return {};
}

}  // namespace

OverlayAccess access_of(const DriveConfig& config) noexcept {
  if (config.is_read_only) return OverlayAccess::ReadOnly;
  return config.cache_type == CacheType::Unsafe ? OverlayAccess::Unordered : OverlayAccess::Ordered;
}

const DiskImage& DiskImage::layer(std::size_t number) const noexcept {
  return number == layers_->top() ? *this : layers_->below()[number].image;
}

Result<DiskImage> DiskImage::open_layers(const DriveConfig& config, const DiskImage* predecessor,
                                         std::span<const FoundFile> found) {
  TRY(check_layers(config));
  const std::string drive = "drive " + config.drive_id;
  const auto boot = read_boot_id();
  if (!boot) return fail(boot.error().kind, "{}: {}", drive, boot.error().message);
  OverlayOrder order{.boot = *boot};
  std::vector<DriveLayers::Below> below;
  for (const std::string& path : config.base_paths) {
    const std::string field = name_of_layer(below.size(), config.base_paths.size());
    auto image = TRY(open_file(
        {.drive_id = config.drive_id, .field = field, .path = path, .read_only = true, .found = found}, nullptr));
    std::optional<Overlay> overlay;
    if (!below.empty()) {
      order.who = fmt::format("{}: {} {}", drive, field, path);
      auto opened = TRY(Overlay::open(image.fd(), order));
      // What is below must not change by a start of the host.
      if (!opened.map().is_durable() && opened.header().boot != kEveryBoot)
        return fail(
            ErrorKind::InvalidArgument,
            "{} has what its machine had not flushed when it was killed: a start of this host would take that "
            "from below what is built on it; have a machine with it flush, or take what mayfly drive export makes "
            "of it",
            order.who);
      overlay.emplace(std::move(opened));
    }
    order.below = identity_of(image, overlay ? &*overlay : nullptr);
    below.push_back({.image = std::move(image), .overlay = std::move(overlay)});
  }

  auto top = TRY(open_file({.drive_id = config.drive_id,
                            .field = "path_on_host",
                            .path = config.path_on_host,
                            .read_only = config.is_read_only,
                            .may_make = !config.is_read_only,
                            .found = found},
                           predecessor));
  order.who = fmt::format("{}: path_on_host {}", drive, config.path_on_host);
  if (top.block_device_ != 0)
    return fail(ErrorKind::InvalidArgument, "{} is a block device, and an overlay is a regular file", order.who);
  order.access = access_of(config);
  auto overlay = Overlay::open(top.fd(), order);
  if (!overlay) return propagate(overlay);
  top.identity_.size_bytes = order.below.size_bytes;
  top.physical_block_size_ = std::max(top.physical_block_size_, overlay->header().block_size);
  top.layers_ = std::make_shared<DriveLayers>(std::move(below), std::move(*overlay));
  return top;
}

Result<DiskImage> DiskImage::make_file(const DriveConfig& config, std::string_view field, const std::string& path,
                                       mode_t mode) {
  const OwnedFd left{::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)};
  if (left || errno != ENOENT) {
    struct flock whole = {};
    whole.l_type = F_WRLCK;
    whole.l_whence = SEEK_SET;
    if (!left || ::fcntl(left.get(), F_OFD_SETLK, &whole) != 0 || ::unlink(path.c_str()) != 0)
      return fail(ErrorKind::State, "drive {}: {} {} is there, and another process may be writing it", config.drive_id,
                  field, path);
  }
  return open_file({.drive_id = config.drive_id, .field = field, .path = path, .may_make = true, .mode = mode},
                   nullptr);
}

bool DiskImage::give_name(const std::string& path) noexcept {
  if (!rename_unless_there(path_, path)) return false;
  made_.keep();
  made_ = MadeFile{path};
  path_ = path;
  return true;
}

void DiskImage::discard() noexcept {
  made_ = MadeFile{};  // removes it
  // Its blocks are given back here and not where it is closed; if that fails, there.
  if (::ftruncate(fd_.get(), 0) != 0) return;
}

void DiskImage::lie_over(DiskImage image, const std::string& layer_path, Overlay overlay, const std::string& path) {
  const std::shared_ptr<DriveLayers> layers = std::exchange(image.layers_, nullptr);
  path_ = path;
  identity_.size_bytes = image.size_bytes();
  physical_block_size_ = image.physical_block_size_;
  image.path_ = layer_path;
  image.read_only_ = true;
  image.identity_ = image.present_identity();
  struct flock reading = {};
  reading.l_type = F_RDLCK;
  reading.l_whence = SEEK_SET;
  (void)::fcntl(image.fd(), F_OFD_SETLK, &reading);  // from the one for writing, so nobody can be in the way
  std::vector<DriveLayers::Below> below = std::move(*layers).take_below();
  below.push_back({.image = std::move(image), .overlay = std::move(layers->overlay())});
  layers_ = std::make_shared<DriveLayers>(std::move(below), std::move(overlay));
}

}  // namespace mayfly
