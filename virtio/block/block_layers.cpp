// The drive's part that serves layers: reads of several, and writes of blocks that the overlay does not have yet.
//
// A touch, which such a write is, has the steps: bring up what of its first and last block it does not write, from the
// layer below; what the guest asked for; the volatile map. Its blocks are shown once all of that is done, so what fails
// has changed nothing. Two touches of one block go one after the other: each could bring up what the other one writes.

#include "virtio/block/block_slot.h"
#include "virtio/vector_bytes.h"

#include <linux/virtio_blk.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mayfly {
namespace {

constexpr unsigned kEdges = 2;
constexpr std::size_t kEdgeBytes = std::size_t{BlockDevice::kQueueSize} * kLargestOverlayBlock;

std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) noexcept { return value / unit * unit; }

}  // namespace

const RegisteredFile& BlockDevice::file_of(const Backing& backing, std::size_t layer) const noexcept {
  return layer == backing.image.layers()->top() ? backing.file : backing.below[layer];
}

/// Address space, of which a drive in layers uses as much as its guest makes it.
bool BlockDevice::reserve_for_layers() noexcept {
  if (backing_->image.layers() == nullptr) return true;
  edges_ =
      Mapping{::mmap(nullptr, kEdgeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
              kEdgeBytes};
  if (!edges_) return false;
  (void)::madvise(edges_.address(), kEdgeBytes, MADV_NOHUGEPAGE);  // as in SlotPool
  return spreads_.reserve();
}

/// Read, Write; ranges come by next_range().
void BlockDevice::begin_layered(Slot& slot, bool alone) noexcept {
  if (slot.request.command == BlockCommand::Read) return read_layers(slot, alone);
  store(slot, slot.request.offset, slot.request.length);
}

// --- Reads -----------------------------------------------------------------------------------------------------------

/// What is left of a read: from one layer as from a plain image, or spread.
void BlockDevice::read_layers(Slot& slot, bool alone) noexcept {
  const BlockRequest& request = slot.request;
  const DriveLayers& layers = *slot.backing->image.layers();
  const std::uint64_t left = request.length - slot.transferred;
  const DriveLayers::Run run = layers.run(request.offset, left);
  if (run.length < left) return spread(slot);
  slot.layer = run.layer;
  slot.shift = run.place - request.offset;
  if (alone && read_cached(slot, slot.backing->image.layer(run.layer).fd())) return;
  submit(slot);
}

void BlockDevice::spread(Slot& slot) noexcept {
  Spread* spread = spreads_.take(*this);
  ensure(spread != nullptr, "there are fewer spreads than requests");
  const DriveLayers& layers = *slot.backing->image.layers();
  spread->slot = &slot;
  spread->length = 0;
  spread->error_number = 0;
  std::span<iovec> vectors{spread->vectors};
  const std::uint64_t left = slot.request.length - slot.transferred;
  std::size_t count = 0;
  auto source = slot.request.data.begin();
  std::uint64_t used = 0;  // of *source
  for (; count < Spread::kParts && spread->length < left; ++count) {
    const DriveLayers::Run run = layers.run(slot.request.offset + spread->length, left - spread->length);
    std::size_t filled = 0;
    for (std::uint64_t wanted = run.length; wanted > 0; ++filled) {
      const std::uint64_t piece = std::min<std::uint64_t>(wanted, source->iov_len - used);
      vectors[filled] = {.iov_base = static_cast<std::byte*>(source->iov_base) + used, .iov_len = piece};
      used += piece;
      wanted -= piece;
      if (used < source->iov_len) continue;
      ++source;
      used = 0;
    }
    Spread::Part& part = spread->parts[count];
    part.spread = spread;
    part.layer = run.layer;
    part.place = run.place;
    part.data = vectors.first(filled);
    part.retries = 0;
    vectors = vectors.subspan(filled);
    spread->length += run.length;
  }
  spread->in_flight = count;
  for (std::size_t part = 0; part < count; ++part) submit_part(*spread, part);
}

void BlockDevice::submit_part(Spread& spread, std::size_t number) noexcept {
  Spread::Part& part = spread.parts[number];
  loop_.readv(file_of(*spread.slot->backing, part.layer), part.data, part.place, part);
}

void BlockDevice::Spread::Part::on_complete(int result, bool /*more*/) noexcept {
  Spread& all = *spread;
  BlockDevice& owner = all.owner;
  const MutexLock lock{owner.mutex()};
  owner.on_part(all, static_cast<std::size_t>(this - all.parts.data()), result);
  owner.after_completion();
}

void BlockDevice::on_part(Spread& spread, std::size_t number, int result) noexcept {
  Spread::Part& part = spread.parts[number];
  if ((result == -EINTR || result == -EAGAIN) && part.retries++ < kMaximumRetries) return submit_part(spread, number);
  if (result > 0) {
    part.place += static_cast<std::uint64_t>(result);
    part.data = drop_front(part.data, static_cast<std::uint64_t>(result));
    if (!part.data.empty()) return submit_part(spread, number);
  } else if (spread.error_number == 0) {
    spread.error_number = result == 0 ? ENODATA : -result;
  }
  if (--spread.in_flight > 0) return;
  Slot& slot = *spread.slot;
  const std::uint64_t length = spread.length;
  const int error_number = spread.error_number;
  spreads_.give_back(spread);
  if (error_number != 0) return fail_request(slot, error_number);
  slot.transferred += length;
  slot.request.offset += length;
  slot.request.data = drop_front(slot.request.data, length);
  if (slot.transferred == slot.request.length) return answer(slot, VIRTIO_BLK_S_OK);
  read_layers(slot, false);
}

// --- Writes ----------------------------------------------------------------------------------------------------------

/// Serves a write, or a range, to these bytes of the drive.
void BlockDevice::store(Slot& slot, std::uint64_t offset, std::uint64_t length) noexcept {
  const DriveLayers& layers = *slot.backing->image.layers();
  slot.layer = layers.top();
  slot.shift = layers.overlay().place_of(0);
  slot.step = Slot::Step::Main;
  slot.touch_begin = offset;
  slot.touch_end = offset + length;
  const Overlay::Run run = layers.overlay().run(offset, length);
  if (run.is_present && run.length == length) return submit(slot);
  begin_touch(slot);
}

void BlockDevice::begin_touch(Slot& slot) noexcept {
  const std::uint64_t block = slot.backing->image.layers()->overlay().header().block_size;
  const auto overlaps = [&](const Slot* other) {
    return other->backing == slot.backing && slot.touch_begin / block <= (other->touch_end - 1) / block &&
           other->touch_begin / block <= (slot.touch_end - 1) / block;
  };
  const auto touching = std::span{touching_}.first(touching_count_);
  if (const auto other = std::ranges::find_if(touching, overlaps); other != touching.end()) {
    slot.next = std::exchange((*other)->waiters, &slot);
    return;
  }
  touching_[touching_count_++] = &slot;
  slot.touches = true;
  slot.edge = 0;
  fill_next_edge(slot);
}

/// Brings up the first block, and the last, where the overlay lacks it and a part of it stays as it was; then does what
/// the guest asked for.
void BlockDevice::fill_next_edge(Slot& slot) noexcept {
  const Overlay& overlay = slot.backing->image.layers()->overlay();
  const OverlayLayout& layout = overlay.map().layout();
  for (; slot.edge < kEdges; ++slot.edge) {
    const std::uint64_t at = round_down(slot.edge == 0 ? slot.touch_begin : slot.touch_end - 1, layout.block_size);
    const std::uint64_t end = std::min(at + layout.block_size, layout.drive_size);
    const bool whole = slot.touch_begin <= at && end <= slot.touch_end;
    if (whole || overlay.map().is_present(at / layout.block_size)) continue;
    if (slot.edge == 1 && at == round_down(slot.touch_begin, layout.block_size)) continue;  // the first one
    slot.edge_at = at;
    slot.edge_done = 0;
    slot.step = Slot::Step::ReadEdge;
    return submit_step(slot);
  }
  slot.step = Slot::Step::Main;
  submit(slot);
}

void BlockDevice::submit_step(Slot& slot) noexcept {
  const DriveLayers& layers = *slot.backing->image.layers();
  if (slot.step == Slot::Step::WriteMap) return loop_.writev(slot.backing->file, {&slot.vector, 1}, slot.edge_at, slot);
  const OverlayLayout& layout = layers.overlay().map().layout();
  const std::uint64_t left =
      std::min<std::uint64_t>(layout.block_size, layout.drive_size - slot.edge_at) - slot.edge_done;
  const std::uint64_t at = slot.edge_at + slot.edge_done;
  std::byte* buffer = edges_.bytes().data() + slots_.index_of(slot) * kLargestOverlayBlock + slot.edge_done;
  slot.vector = {.iov_base = buffer, .iov_len = left};
  if (slot.step == Slot::Step::WriteEdge)
    return loop_.writev(slot.backing->file, {&slot.vector, 1}, layers.overlay().place_of(at), slot);
  const DriveLayers::Run run = layers.run(at, left);
  slot.vector.iov_len = run.length;
  loop_.readv(file_of(*slot.backing, run.layer), {&slot.vector, 1}, run.place, slot);
}

BlockDevice::Blocks BlockDevice::touched_blocks(const Slot& slot, const OverlayMap& map) noexcept {
  const std::uint64_t block = map.layout().block_size;
  const std::uint64_t first = slot.touch_begin / block;
  return {.first = first, .count = (slot.touch_end - 1) / block + 1 - first};
}

/// A step of a touch, other than what the guest asked for, has come back without an error.
void BlockDevice::on_step(Slot& slot, int result) noexcept {
  if (result == 0) return fail_request(slot, slot.step == Slot::Step::ReadEdge ? ENODATA : EIO);
  const auto count = static_cast<std::uint64_t>(result);
  if (slot.step == Slot::Step::WriteMap) {
    slot.edge_at += count;
    const auto rest = drop_front({&slot.vector, 1}, count);
    if (!rest.empty()) return submit_step(slot);
    OverlayMap& map = slot.backing->image.layers()->overlay().map();
    const Blocks blocks = touched_blocks(slot, map);
    map.publish(blocks.first, blocks.count);
    end_touch(slot);
    return stored_or_next_range(slot);
  }
  const OverlayLayout& layout = slot.backing->image.layers()->overlay().map().layout();
  slot.edge_done += count;
  if (slot.edge_done < std::min<std::uint64_t>(layout.block_size, layout.drive_size - slot.edge_at))
    return submit_step(slot);
  slot.edge_done = 0;
  if (slot.step == Slot::Step::ReadEdge) {
    slot.step = Slot::Step::WriteEdge;
    return submit_step(slot);
  }
  ++slot.edge;
  fill_next_edge(slot);
}

/// What the guest asked for is in the file: the volatile map says so before the guest is told.
void BlockDevice::record_touch(Slot& slot) noexcept {
  OverlayMap& map = slot.backing->image.layers()->overlay().map();
  const auto [first, count] = touched_blocks(slot, map);
  const OverlayMap::Write write = map.record(first, count);
  slot.step = Slot::Step::WriteMap;
  slot.edge_at = write.offset;
  slot.vector = {.iov_base = const_cast<std::byte*>(write.bytes.data()), .iov_len = write.bytes.size()};
  submit_step(slot);
}

/// Also of one that failed.
void BlockDevice::end_touch(Slot& slot) noexcept {
  if (slot.step == Slot::Step::WriteMap) {
    OverlayMap& map = slot.backing->image.layers()->overlay().map();
    const auto [first, count] = touched_blocks(slot, map);
    map.forget(first, count);  // nothing, once it is published
  }
  slot.step = Slot::Step::Main;
  slot.touches = false;
  const auto touching = std::span{touching_}.first(touching_count_);
  *std::ranges::find(touching, &slot) = touching.back();
  --touching_count_;
  for (Slot* waiter = std::exchange(slot.waiters, nullptr); waiter != nullptr;) {
    Slot* next = waiter->next;
    store(*waiter, waiter->touch_begin, waiter->touch_end - waiter->touch_begin);
    waiter = next;
  }
}

}  // namespace mayfly
