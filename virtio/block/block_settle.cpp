// The drive's part that makes an overlay durable: what a flush is of a drive in layers.

#include "virtio/block/block_slot.h"

#include <linux/virtio_blk.h>

#include <cerrno>
#include <utility>

namespace mayfly {

/// A flush, or the end of a write that is to be stable.
void BlockDevice::submit_sync(Slot& slot) noexcept {
  Backing& backing = *slot.backing;
  DriveLayers* layers = backing.image.layers();
  Settling& settling = backing.settling;
  // Blocks that were there at the last flush need no map.
  if (layers == nullptr || config_.is_read_only ||
      (layers->overlay().map().is_durable() && settling.step == Settling::Step::Idle))
    return loop_.sync_data(backing.file, slot);
  slot.next = std::exchange(settling.waiting, &slot);
  if (settling.step == Settling::Step::Idle) settle(settling);
}

void BlockDevice::settle(Settling& settling) noexcept {
  settling.served = std::exchange(settling.waiting, nullptr);
  settling.backing.image.layers()->overlay().map().capture();
  settling.step = Settling::Step::SyncData;
  settling.retries = 0;
  submit_settling(settling);
}

void BlockDevice::submit_settling(Settling& settling) noexcept {
  const RegisteredFile& file = settling.backing.file;
  if (settling.step != Settling::Step::WriteMap) return loop_.sync_data(file, settling);
  settling.vector = {.iov_base = const_cast<std::byte*>(settling.write.bytes.data()),
                     .iov_len = settling.write.bytes.size()};
  loop_.writev(file, {&settling.vector, 1}, settling.write.offset, settling);
}

void BlockDevice::Settling::on_complete(int result, bool /*more*/) noexcept {
  BlockDevice& device = owner;  // the end of an image that was swapped out ends this
  const MutexLock lock{device.mutex()};
  device.on_settling(*this, result);
  device.after_completion();
}

void BlockDevice::on_settling(Settling& settling, int result) noexcept {
  using Step = Settling::Step;
  if ((result == -EINTR || result == -EAGAIN) && settling.retries++ < kMaximumRetries) return submit_settling(settling);
  if (result < 0) return end_settling(settling, -result);
  OverlayMap& map = settling.backing.image.layers()->overlay().map();
  if (settling.step == Step::SyncMap) {
    map.captured();
    return end_settling(settling, 0);
  }
  if (settling.step == Step::SyncData) {
    settling.step = Step::WriteMap;
    settling.at = 0;
    settling.write = {};
  } else {
    if (result == 0) return end_settling(settling, EIO);
    settling.write.offset += static_cast<std::uint64_t>(result);
    settling.write.bytes = settling.write.bytes.subspan(static_cast<std::size_t>(result));
  }
  if (settling.write.bytes.empty()) {
    if (const auto piece = map.next_piece(settling.at)) {
      settling.write = piece->write;
      settling.at = piece->next;
    } else {
      settling.step = Step::SyncMap;
    }
  }
  submit_settling(settling);
}

void BlockDevice::end_settling(Settling& settling, int error_number) noexcept {
  settling.step = Settling::Step::Idle;
  Slot* served = std::exchange(settling.served, nullptr);
  if (Retired* retired = std::exchange(settling.retired, nullptr)) return on_retired_synced(*retired, error_number);
  while (served != nullptr) {
    Slot* next = served->next;
    if (error_number == 0)
      answer(*served, VIRTIO_BLK_S_OK);
    else
      fail_request(*served, error_number);
    served = next;
  }
  if (settling.waiting != nullptr) settle(settling);
}

}  // namespace mayfly
