// The drive's part that swaps images.

#include "virtio/block/block_slot.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mayfly {

Status BlockDevice::replace_path(const std::string& path) {
  DriveConfig config = config_;
  config.base_paths = layer_paths();
  if (!config.base_paths.empty())
    if (const auto same = overlay_at(path)) return *same;
  config.path_on_host = path;
  auto image = DiskImage::open(config, backing_for(path)->image);
  if (!image) {
    metrics_.update_fails.add();
    return propagate(image);
  }
  return replace_image(std::move(*image));
}

/// As configured, and what was frozen since.
std::vector<std::string> BlockDevice::layer_paths() const {
  const MutexLock lock{mutex()};
  std::vector<std::string> paths;
  if (const DriveLayers* layers = backing_->image.layers())
    for (const DriveLayers::Below& layer : layers->below()) paths.push_back(layer.image.path());
  return paths;
}

std::shared_ptr<BlockDevice::Backing> BlockDevice::backing_for(const std::string& path) const {
  const MutexLock lock{mutex()};
  for (const Retired& each : retired_)
    if (each.backing->image.is_at(path)) return each.backing;
  return backing_;
}

/// An overlay has one map, in memory: the present one stays, since its size cannot change, and one whose map is still
/// being written cannot be opened once more.
std::optional<Status> BlockDevice::overlay_at(const std::string& path) {
  const MutexLock lock{mutex()};
  if (backing_->image.is_at(path)) {
    metrics_.update_count.add();
    return Status{};
  }
  if (std::ranges::none_of(retired_, [&](const Retired& each) { return each.backing->image.is_at(path); }))
    return std::nullopt;
  metrics_.update_fails.add();
  return fail(ErrorKind::State, "{}: path_on_host {} was this drive's before, and is still being written; try again",
              name_, path);
}

Status BlockDevice::replace_image(DiskImage image) {
  const MutexLock lock{mutex()};
  const auto refuse = [this](std::unexpected<Error> error) {
    metrics_.update_fails.add();
    return error;
  };
  const std::uint32_t block_size = backing_->image.logical_block_size();
  if (image.read_only() != config_.is_read_only)
    return refuse(fail(ErrorKind::InvalidArgument,
                       "{}: path_on_host {} was opened {}, and the drive is {}; that cannot change while the machine "
                       "runs",
                       name_, image.path(), image.read_only() ? "read-only" : "to be written",
                       config_.is_read_only ? "read-only" : "writable"));
  if (image.logical_block_size() != block_size)
    return refuse(fail(ErrorKind::InvalidArgument,
                       "{}: path_on_host {} has blocks of {} bytes, and the guest was told {}; give an image with "
                       "blocks of {} bytes",
                       name_, image.path(), image.logical_block_size(), block_size, block_size));
  auto made = make_backing(std::move(image));
  if (!made) return refuse(propagate(made, name_));
  retire(std::exchange(backing_, std::move(*made)));
  replaced_ = true;
  may_read_cached_ = !backing_->image.direct();
  cache_misses_ = skip_cached_ = 0;
  metrics_.update_count.add();
  host().config_changed();
  return {};
}

// --- The old image ---------------------------------------------------------------------------------------------------

/// Keeps a replaced image, if a flush must cover what was written to it.
void BlockDevice::retire(std::shared_ptr<Backing> backing) {
  if (config_.cache_type == CacheType::Unsafe || config_.is_read_only) return;
  // A flush of the same file covers what has been written to it; what is being written is waited for.
  if (backing->image.is_same_file(backing_->image) && backing.use_count() == 1) return;
  retired_.emplace_back(*this, std::move(backing));
  sync_retired();
}

/// Begins to sync an image without requests. Others may lock it from then on: only its disk is still written. Not if
/// the same file is in use here, which shares the lock.
void BlockDevice::sync_retired() noexcept {
  for (Retired& each : retired_) {
    if (each.syncing || each.backing.use_count() > 1) continue;
    each.syncing = true;
    const DiskImage& image = each.backing->image;
    const bool in_use = image.is_same_file(backing_->image) || std::ranges::any_of(retired_, [&](const Retired& other) {
                          return !other.syncing && image.is_same_file(other.backing->image);
                        });
    if (image.layers() != nullptr && !image.layers()->overlay().map().is_durable()) {
      each.backing->settling.retired = &each;  // the map is written under the lock, which ends with the image
      settle(each.backing->settling);
      continue;
    }
    if (!in_use) image.unlock();
    loop_.sync_data(each.backing->file, each);
  }
}

void BlockDevice::Retired::on_complete(int result, bool /*more*/) noexcept {
  const MutexLock lock{owner.mutex()};
  if ((result == -EINTR || result == -EAGAIN) && retries++ < kMaximumRetries)
    return owner.loop_.sync_data(backing->file, *this);
  owner.on_retired_synced(*this, -result);  // ends this
}

void BlockDevice::on_retired_synced(Retired& retired, int error_number) noexcept {
  if (error_number != 0) {
    lost_writes_ = true;
    note_failed_flush();
    metrics_.execute_fails.add();
    if (log_rate_.allow())
      log_.warning("{}: flushing {}, which was replaced, failed: {}", name_, retired.backing->image.path(),
                   errno_text(error_number));
  }
  retired_.remove_if([&](const Retired& each) { return &each == &retired; });
  if (!retired_.empty()) return;
  release_flushes();
  end_drain();
  if (std::exchange(starved_, false)) serve();
}

}  // namespace mayfly
