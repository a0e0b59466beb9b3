// What a drive is to its driver: its features and configuration space (virtio 1.2, 5.2).

#include "virtio/block/block_device.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include <bit>

namespace mayfly {
namespace {

constexpr std::uint64_t bit(unsigned feature) noexcept { return 1ULL << feature; }

}  // namespace

std::uint32_t BlockDevice::type() const noexcept { return VIRTIO_ID_BLOCK; }

std::uint64_t BlockDevice::features() const noexcept {
  std::uint64_t features = bit(VIRTIO_BLK_F_SEG_MAX) | bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_TOPOLOGY);
  features |= config_.is_read_only ? bit(VIRTIO_BLK_F_RO) : bit(VIRTIO_BLK_F_WRITE_ZEROES);
  if (gives_up_space()) features |= bit(VIRTIO_BLK_F_DISCARD);
  if (config_.cache_type == CacheType::Writeback) features |= bit(VIRTIO_BLK_F_FLUSH);
  return features;
}

FeatureText BlockDevice::feature_text(unsigned feature) const noexcept {
  switch (feature) {  // the rest is always offered
    case VIRTIO_BLK_F_RO:
      return {"VIRTIO_BLK_F_RO", "configure the drive with is_read_only"};
    case VIRTIO_BLK_F_FLUSH:
      return {"VIRTIO_BLK_F_FLUSH", "configure the drive with cache_type Writeback"};
    case VIRTIO_BLK_F_DISCARD:
      return {"VIRTIO_BLK_F_DISCARD", "configure the drive as it was, to be written, with discard Unmap"};
    case VIRTIO_BLK_F_WRITE_ZEROES:
      return {"VIRTIO_BLK_F_WRITE_ZEROES", "configure the drive as it was, to be written"};
    default:
      return {};
  }
}

void BlockDevice::read_config(std::uint64_t offset, std::span<std::byte> data) const noexcept {
  has_lock();
  const DiskImage& image = backing_->image;
  const std::uint32_t logical = image.logical_block_size();
  const std::uint32_t per_physical = image.physical_block_size() / logical;
  virtio_blk_config config{};
  config.capacity = image.sectors();
  config.seg_max = kMaximumDataSegments;
  config.blk_size = logical;
  config.physical_block_exp = static_cast<std::uint8_t>(std::countr_zero(per_physical));
  config.min_io_size = static_cast<std::uint16_t>(per_physical);
  config.num_queues = 1;
  if (gives_up_space()) {
    config.max_discard_sectors = kMaximumRangeSectors;
    config.max_discard_seg = kMaximumBlockRanges;
    config.discard_sector_alignment = static_cast<std::uint32_t>(image.physical_block_size() / kSectorSize);
  }
  if (!config_.is_read_only) {
    config.max_write_zeroes_sectors = kMaximumRangeSectors;
    config.max_write_zeroes_seg = kMaximumBlockRanges;
    config.write_zeroes_may_unmap = gives_up_space() ? 1 : 0;
  }
  read_space(config, offset, data);
}

}  // namespace mayfly
