// The drive's part that snapshots are made of.

#include "virtio/block/block_device.h"
#include "virtio/block/drive_layers.h"
#include "vmm/base/try.h"

#include <unistd.h>

#include <memory>
#include <utility>
#include <vector>

namespace mayfly {

BlockDeviceState BlockDevice::state() const {
  const MutexLock lock{mutex()};
  return {.features = features_,
          .rate_limiter = limiter_->state(),
          .image = backing_->image.present_identity(),
          .lost_writes = lost_writes_};
}

Status BlockDevice::sync() {
  // Images that were swapped out, too: the ring's own syncs of them may still be under way. What an overlay among those
  // has is made durable by the ring alone, which has its map.
  std::vector<std::shared_ptr<Backing>> all;
  {
    const MutexLock lock{mutex()};
    all.push_back(backing_);
    for (const Retired& each : retired_) all.push_back(each.backing);
  }
  // The snapshot has what is in the overlay: a revert must not empty it any more. A frozen one has a name of its own.
  {
    const MutexLock lock{mutex()};
    const DriveLayers* layers = backing_->image.layers();
    may_be_in_snapshot_ = !freezing_ && layers != nullptr && layers->overlay().map().present_count() > 0;
  }
  Status synced;
  for (const auto& backing : all)
    if (auto one = backing->image.sync_data(); !one && synced) synced = std::move(one);
  if (!synced) note_lost_writes();
  // A map that cannot be written, for want of room, loses nothing: it is written by the next flush.
  if (synced) synced = all.front()->image.sync_map();
  // The ring's own sync of an old image may have ended meanwhile: the last of it goes on the loop's thread, as its
  // place in the ring does. One that was swapped out meanwhile is synced by whoever lets go of it last.
  loop_.post([this, kept = std::move(all)]() mutable {
    kept.clear();
    const MutexLock lock{mutex()};
    sync_retired();
  });
  const auto [freeze, image] = freezing();
  return synced && freeze != nullptr ? freeze->take(*image) : synced;
}

/// The kernel tells of a failed write once: a flush by the same description, and the sync of the next snapshot, would be told
/// that all is well.
void BlockDevice::note_lost_writes() {
  const MutexLock lock{mutex()};
  lost_writes_ = lost_writes_ || config_.cache_type == CacheType::Writeback;
}

Status BlockDevice::note_sync_point() {
  SyncPoint point;
  const auto add = [&point](const DiskImage& image) -> Status {
    auto fd = TRY(image.keep_open());
    point.files.push_back({.path = image.path(), .fd = std::move(fd)});
    return {};
  };
  {
    const MutexLock lock{mutex()};
    sync_point_.reset();
    if (config_.is_read_only || freezing_ || backing_->image.layers() != nullptr) return {};
    TRY(add(backing_->image));
    for (const Retired& each : retired_) TRY(add(each.backing->image));
  }
  // Without the lock: an open may wait for the disk.
  for (SyncPoint::File& each : point.files) each.fd = DiskImage::by_own_description(std::move(each.fd));
  const MutexLock lock{mutex()};
  sync_point_ = std::move(point);
  return {};
}

Status BlockDevice::sync_to_point() {
  std::vector<SyncPoint::File> files;
  {
    const MutexLock lock{mutex()};
    if (sync_point_) files = std::exchange(sync_point_->files, {});
  }
  for (const SyncPoint::File& file : files) {
    if (::fsync(file.fd.get()) == 0) continue;
    auto failed =
        fail_errno(ErrorKind::System, "{}: cannot put what the guest has written on stable storage", file.path);
    note_lost_writes();
    return failed;
  }
  const MutexLock lock{mutex()};
  if (!sync_point_ || !sync_point_->flush_failed) return {};
  return fail(
      ErrorKind::System,
      "{}: a flush has failed since the pause (the log has the disk's error), so it may lack what the guest wrote "
      "before: take the snapshot again when the disk is well",
      files.empty() ? backing_->image.path() : files.front().path);
}

void BlockDevice::end_snapshot(bool counts) {
  const MutexLock lock{mutex()};
  sync_point_.reset();
  in_snapshot_ = in_snapshot_ || (counts && may_be_in_snapshot_);
  may_be_in_snapshot_ = false;
}

ImageIdentity BlockDevice::kept_image() const {
  const MutexLock lock{mutex()};
  return freezing_ ? freezing_->freeze.identity() : backing_->image.present_identity();
}

void BlockDevice::note_revert_point() {
  const MutexLock lock{mutex()};
  const DriveLayers* layers = backing_->image.layers();
  was_empty_ = !config_.is_read_only && layers != nullptr && layers->overlay().map().present_count() == 0;
}

Status BlockDevice::can_revert() const {
  const MutexLock lock{mutex()};
  if (!config_.is_read_only && !was_empty_)
    return fail(
        ErrorKind::State,
        "{}: the guest writes to {}, and its content cannot go back: load the snapshot with the drive read-only, "
        "or with drive_overrides that give it a new overlay over its image (base_path)",
        name_, backing_->image.path());
  if (in_snapshot_ || may_be_in_snapshot_)
    return fail(ErrorKind::State,
                "{}: a snapshot that was taken since has what is in {}, which a revert would empty: load one of the "
                "snapshots into a fresh Mayfly",
                name_, backing_->image.path());
  if (replaced_)
    return fail(ErrorKind::State,
                "{}: its image was replaced since the snapshot was loaded (it is {} now), which does not go back: load "
                "the snapshot into a fresh Mayfly",
                name_, backing_->image.path());
  return {};
}

Status BlockDevice::empty_overlay() {
  const MutexLock lock{mutex()};
  ensure(slots_.in_use() == 0, "a drive with requests in flight was emptied");
  if (config_.is_read_only) return {};
  const DiskImage& image = backing_->image;
  ensure(image.layers() != nullptr, "a drive that is written to in place was to be emptied");
  auto emptied = image.layers()->overlay().empty(image.fd());
  return emptied ? Status{} : propagate(emptied, fmt::format("{}: {}", name_, image.path()));
}

Status BlockDevice::restore(const BlockDeviceState& state, Images images) {
  const MutexLock lock{mutex()};
  const DiskImage& image = backing_->image;
  if (image.size_bytes() != state.image.size_bytes)
    return fail(ErrorKind::InvalidArgument,
                "{}: {} has {} bytes, and had {} when the snapshot was taken; give the image that belongs to the "
                "snapshot",
                name_, image.path(), image.size_bytes(), state.image.size_bytes);
  const DiskImage* compared = images == Images::Unchanged ? &image : nullptr;
  if (images == Images::Replaced && image.layers() != nullptr)
    for (const DriveLayers::Below& layer : image.layers()->below())
      if (layer.image.identity().device == state.image.device && layer.image.identity().inode == state.image.inode)
        compared = &layer.image;
  // Over the snapshot's own file, another machine's writes are no part of what the guest knows.
  if (compared != nullptr && compared != &image && image.layers()->overlay().map().present_count() > 0)
    return fail(ErrorKind::InvalidArgument,
                "{}: {} has what another machine wrote since the snapshot, so the guest would find other data than it "
                "knows; name a file that is not there, or set allow_changed_drives if the change does no harm",
                name_, image.path());
  // Opening an overlay may have written to it.
  const bool changed = compared != nullptr &&
                       (image.layers() != nullptr ? compared->identity() : compared->present_identity()).modified_ns !=
                           state.image.modified_ns;
  if (changed && !config_.is_read_only)
    return fail(ErrorKind::InvalidArgument,
                "{}: {} has changed since the snapshot was taken, so the guest would find other data than it knows; "
                "give the image as it was, or set allow_changed_drives if the change does no harm",
                name_, compared->path());
  if (changed)
    log_.warning(
        "{}: {} has another time of change than when the snapshot was taken: if its content differs as well, the guest "
        "finds other data than it knows",
        name_, image.path());
  limiter_->restore(state.rate_limiter);
  lost_writes_ = state.lost_writes;
  return {};
}

}  // namespace mayfly
