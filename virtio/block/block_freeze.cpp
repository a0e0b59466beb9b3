// The drive's part that freezes its image for a snapshot.

#include "virtio/block/block_device.h"
#include "virtio/block/drive_layers.h"

#include <utility>

namespace mayfly {

Status BlockDevice::prepare_freeze(const std::string& path) {
  const MutexLock lock{mutex()};
  ensure(slots_.in_use() == 0, "a drive with requests in flight was to be frozen");
  auto freeze = DriveFreeze::prepare(config_, backing_->image, path);
  if (!freeze) return propagate(freeze);
  // Of the requests that follow, if it is to be the overlay: too late for an error then.
  auto file = loop_.register_file(freeze->made().fd());
  if (!file) return propagate(file, name_);
  freezing_.emplace(std::move(*freeze), std::move(*file));
  return {};
}

/// For who may wait: the loop needs the lock for what is left of old images.
std::pair<DriveFreeze*, const DiskImage*> BlockDevice::freezing() {
  const MutexLock lock{mutex()};
  return {freezing_ ? &freezing_->freeze : nullptr, &backing_->image};
}

Status BlockDevice::settle_freeze() {
  const auto [freeze, image] = freezing();
  return freeze != nullptr ? freeze->settle(*image) : Status{};
}

Status BlockDevice::drop_freeze() {
  const auto [freeze, image] = freezing();
  return freeze != nullptr ? freeze->drop(*image) : Status{};
}

bool BlockDevice::end_freeze(bool counts) {
  const MutexLock lock{mutex()};
  if (!freezing_) return false;
  Freezing ended = std::move(*freezing_);
  freezing_.reset();
  if (!counts) {
    // What waits for the disk was done by drop_freeze(), if there was any.
    if (auto dropped = ended.freeze.drop(backing_->image); !dropped)
      log_.error("{}: {}", name_, dropped.error().message);
    return false;
  }
  ended.freeze.keep();
  if (!ended.freeze.became_layer()) return false;
  Backing& old = *backing_;
  auto backing = std::make_shared<Backing>(*this, std::move(ended.freeze).put_over(std::move(old.image)));
  backing->file = std::move(ended.made);
  backing->below = std::move(old.below);
  backing->below.push_back(std::move(old.file));
  backing_ = std::move(backing);
  replaced_ = true;
  return true;
}

}  // namespace mayfly
