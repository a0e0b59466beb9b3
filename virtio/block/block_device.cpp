#include "virtio/block/block_slot.h"
#include "virtio/vector_bytes.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/virtio_blk.h>
#include <sys/uio.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <utility>

namespace mayfly {
namespace {

/// Chains that are taken before the rest of the loop gets its turn: a guest on another CPU can offer for ever.
constexpr unsigned kMaximumTurn = BlockDevice::kQueueSize;
/// A read of more is not worth trying without waiting: copying dwarfs the round through the ring.
constexpr std::uint64_t kMaximumCachedRead = 64 * 1024;
/// After misses of the page cache in a row, every so many reads are tried again.
constexpr unsigned kMaximumSkip = 63;

constexpr std::uint64_t feature_bit(unsigned feature) noexcept { return 1ULL << feature; }

/// How the log and the metrics speak of a command.
struct CommandNames {
  std::string_view doing;
  Counter BlockMetrics::* count;
  Counter BlockMetrics::* bytes;
};
constexpr CommandNames names_of(BlockCommand command) noexcept {
  switch (command) {
    case BlockCommand::Read:
      return {"reading", &BlockMetrics::read_count, &BlockMetrics::read_bytes};
    case BlockCommand::Write:
      return {"writing", &BlockMetrics::write_count, &BlockMetrics::write_bytes};
    case BlockCommand::Flush:
      return {"flushing", &BlockMetrics::flush_count, nullptr};
    case BlockCommand::Discard:
      return {"discarding", &BlockMetrics::discard_count, nullptr};
    case BlockCommand::WriteZeroes:
      return {"writing zeroes", &BlockMetrics::write_zeroes_count, nullptr};
    case BlockCommand::GetId:
      break;
  }
  return {"serving", nullptr, nullptr};
}

bool is_transfer(BlockCommand command) noexcept {
  return command == BlockCommand::Read || command == BlockCommand::Write;
}

}  // namespace

// --- Construction ----------------------------------------------------------------------------------------------------

BlockDevice::BlockDevice(const DriveConfig& config, EventLoop& loop, BlockMetrics& metrics, Log& log)
    : config_(config), name_("drive " + config.drive_id), loop_(loop), metrics_(metrics), log_(log) {}

Result<std::unique_ptr<BlockDevice>> BlockDevice::create(const DriveConfig& config, DiskImage image, EventLoop& loop,
                                                         BlockMetrics& metrics, Log& log) {
  std::unique_ptr<BlockDevice> device{new BlockDevice{config, loop, metrics, log}};
  device->has_lock();  // nobody else knows it yet
  auto backing = device->make_backing(std::move(image));
  if (!backing) return propagate(backing, device->name_);
  device->backing_ = std::move(*backing);
  device->may_read_cached_ = !device->backing_->image.direct();
  if (!device->slots_.reserve() || !device->reserve_for_layers())
    return fail_errno(ErrorKind::System, "{}: no memory for its requests", device->name_);
  auto limiter = RateLimiter::create(loop, config.rate_limiter, [owner = device.get()] { owner->on_tokens(); });
  if (!limiter) return propagate(limiter, device->name_);
  device->limiter_ = std::move(*limiter);
  return device;
}

BlockDevice::~BlockDevice() {
  for (Slot& slot : slots_.made())
    if (slot.chain) std::move(*slot.chain).abandon();  // the loop was closed while they were in flight
  // A plain file keeps what was not flushed if the host is shut down in order; an overlay needs its map for that.
  const auto settle = [this](const DiskImage& image) {
    const DriveLayers* layers = image.layers();
    if (layers != nullptr && !config_.is_read_only && config_.cache_type == CacheType::Writeback &&
        !layers->overlay().map().is_durable())
      if (auto settled = image.sync(); !settled) log_.warning("{}: {}", name_, settled.error().message);
  };
  if (backing_ != nullptr) settle(backing_->image);
  for (const Retired& each : retired_) settle(each.backing->image);
}

Result<std::shared_ptr<BlockDevice::Backing>> BlockDevice::make_backing(DiskImage image) {
  auto backing = std::make_shared<Backing>(*this, std::move(image));
  auto file = loop_.register_file(backing->image.fd());
  if (!file) return propagate(file, backing->image.path());
  backing->file = std::move(*file);
  if (const DriveLayers* layers = backing->image.layers())
    for (const DriveLayers::Below& layer : layers->below()) {
      auto below = loop_.register_file(layer.image.fd());
      if (!below) return propagate(below, layer.image.path());
      backing->below.push_back(std::move(*below));
    }
  backing->image.keep();
  if (!backing->image.direct()) return backing;
  auto buffered = loop_.register_file(backing->image.buffered_fd());
  if (!buffered) return propagate(buffered, backing->image.path());
  backing->buffered_file = std::move(*buffered);
  return backing;
}

// --- Control path ----------------------------------------------------------------------------------------------------

void BlockDevice::activate(std::uint64_t features, std::span<VirtQueue> queues) noexcept {
  has_lock();
  features_ = features;
  queue_ = &queues.front();
  throttled_ = starved_ = false;
}

void BlockDevice::reset() noexcept {
  has_lock();
  ensure(slots_.in_use() == 0, "a drive was reset with requests in flight");
  queue_ = nullptr;
  features_ = 0;
  throttled_ = starved_ = false;
}

void BlockDevice::drain() noexcept {
  has_lock();
  end_drain();
}

/// Says so where nothing is in flight any more.
void BlockDevice::end_drain() noexcept {
  if (is(DevicePhase::Draining) && is_idle()) host().drained();
}

void BlockDevice::undrain() noexcept {}

void BlockDevice::update_rate_limiter(const RateLimiterConfig& config) {
  const MutexLock lock{mutex()};
  limiter_->update(config);
  metrics_.update_count.add();
}

void BlockDevice::on_tokens() noexcept {
  const MutexLock lock{mutex()};
  throttled_ = false;
  serve();
}

bool BlockDevice::writes_through() const noexcept {
  // 5.2.6.2: without flushes, a completed write must be stable, where flushes are to be had. An Unsafe drive's user
  // has said that he does not want that.
  return config_.cache_type == CacheType::Writeback && (features_ & feature_bit(VIRTIO_BLK_F_FLUSH)) == 0;
}

// --- Data path: what the driver offers -------------------------------------------------------------------------------

void BlockDevice::on_kick(unsigned /*queue*/) noexcept {
  has_lock();
  serve();
}

void BlockDevice::Requeue::on_complete(int /*result*/, bool /*more*/) noexcept {
  const MutexLock lock{owner.mutex()};
  asked = false;
  owner.serve();
}

/// Takes chains as long as there are any, and room and tokens for them.
void BlockDevice::serve() noexcept {
  for (unsigned turn = 0; is(DevicePhase::Active) && !throttled_; ++turn) {
    if (turn == kMaximumTurn) {
      // A read of nothing comes back in the next round.
      if (!std::exchange(requeue_.asked, true)) loop_.readv(backing_->file, {}, 0, requeue_);
      return;
    }
    Slot* slot = slots_.take(*this);
    if (slot == nullptr) {  // only a driver that offers chains twice over comes to this
      starved_ = true;
      return;
    }
    auto taken = queue_->take(slot->segments);
    if (!taken || !*taken) {
      slots_.give_back(*slot);
      if (!taken) host().broken(taken.error().what);
      return;
    }
    slot->chain.emplace(std::move(**taken));
    const bool alone = turn == 0 && slots_.in_use() == 1 && !queue_->has_more();
    begin(*slot, alone);
  }
}

void BlockDevice::begin(Slot& slot, bool alone) noexcept {
  const std::size_t readable = slot.chain->readable().size();
  const std::size_t writable = slot.chain->writable().size();
  const std::span<iovec> segments{slot.segments};
  slot.request = parse_block_request(
      {.readable = segments.first(readable), .writable = segments.subspan(readable, writable), .ranges = slot.ranges},
      {.sectors = backing_->image.sectors(), .read_only = config_.is_read_only, .discard = gives_up_space()});
  if (!admit(slot)) {
    queue_->put_back(std::move(*slot.chain));
    slot.chain.reset();
    slots_.give_back(slot);
    return;
  }
  slot.backing = backing_;
  slot.transferred = 0;
  slot.range = 0;
  slot.retries = 0;
  slot.buffered = slot.syncing = slot.touches = false;
  slot.step = Slot::Step::Main;
  slot.shift = 0;

  if (slot.request.status == nullptr || slot.request.refusal != VIRTIO_BLK_S_OK) {
    metrics_.invalid_reqs_count.add();
    return answer(slot, slot.request.refusal);
  }
  const BlockCommand command = slot.request.command;
  if (command == BlockCommand::GetId) return answer_id(slot);
  const bool nothing_to_do = (is_transfer(command) && slot.request.length == 0) ||
                             (command == BlockCommand::Flush && config_.cache_type == CacheType::Unsafe);
  if (nothing_to_do) return answer(slot, VIRTIO_BLK_S_OK);
  if (command == BlockCommand::Flush) return flush(slot);
  if (!is_transfer(command)) return next_range(slot);
  if (slot.backing->image.layers() != nullptr) return begin_layered(slot, alone);
  if (alone && command == BlockCommand::Read && read_cached(slot, slot.backing->image.fd())) return;
  submit(slot);
}

/// What a request takes from the bucket of bytes; one of ranges, for those from `first_range` on.
std::uint64_t BlockDevice::charge(const Slot& slot, std::size_t first_range) const noexcept {
  const BlockRequest& request = slot.request;
  const auto ranges = std::span{slot.ranges}.first(request.range_count).subspan(first_range);
  if (request.refusal != VIRTIO_BLK_S_OK) return 0;
  switch (request.command) {
    case BlockCommand::Read:
    case BlockCommand::Write:
      return request.length;
    case BlockCommand::WriteZeroes:
      return std::accumulate(ranges.begin(), ranges.end(), std::uint64_t{0},
                             [](std::uint64_t sum, const BlockRange& range) { return sum + range.length; });
    case BlockCommand::Discard:
      return kFixedCharge * ranges.size();
    case BlockCommand::Flush:
      return config_.cache_type == CacheType::Unsafe ? 0 : kFixedCharge;
    case BlockCommand::GetId:
      break;
  }
  return 0;
}

bool BlockDevice::admit(Slot& slot) noexcept {
  slot.payment = {};
  if (!limiter_->limited()) return true;
  if (const auto payment = limiter_->admit(charge(slot, 0))) {
    slot.payment = *payment;
    return true;
  }
  throttled_ = true;
  metrics_.rate_limiter_throttled_events.add();
  return false;
}

/// Tries to read without waiting; whether that was all of it.
bool BlockDevice::read_cached(Slot& slot, int fd) noexcept {
  if (!may_read_cached_ || slot.request.length > kMaximumCachedRead) return false;
  if (skip_cached_ > 0) {
    --skip_cached_;
    return false;
  }
  const BlockRequest& request = slot.request;
  const ssize_t result = ::preadv2(fd, request.data.data(), static_cast<int>(request.data.size()),
                                   static_cast<off_t>(request.offset + slot.shift), RWF_NOWAIT);
  if (result > 0 && static_cast<std::uint64_t>(result) == request.length) {
    cache_misses_ = 0;
    on_transferred(slot, request.length);
    return true;
  }
  if (result < 0 && errno == EOPNOTSUPP) may_read_cached_ = false;
  // A part of it counts as nothing: the ring reads it all again.
  cache_misses_ = std::min(2 * cache_misses_ + 1, kMaximumSkip);
  skip_cached_ = cache_misses_;
  return false;
}

// --- Data path: the host's side --------------------------------------------------------------------------------------

/// A flush covers what was written to images that were swapped out as well, and waits for their syncs. Until then it is
/// on no image: another swap may follow.
void BlockDevice::flush(Slot& slot) noexcept {
  slot.backing.reset();
  slot.next = std::exchange(waiting_flushes_, &slot);
  if (retired_.empty()) release_flushes();
}

void BlockDevice::release_flushes() noexcept {
  const bool lost = waiting_flushes_ != nullptr && std::exchange(lost_writes_, false);
  while (Slot* slot = waiting_flushes_) {
    waiting_flushes_ = slot->next;
    slot->backing = backing_;
    if (lost)
      answer(*slot, VIRTIO_BLK_S_IOERR);
    else
      submit(*slot);
  }
}

void BlockDevice::submit(Slot& slot) noexcept {
  const BlockRequest& request = slot.request;
  if (slot.step != Slot::Step::Main) return submit_step(slot);
  if (slot.syncing) return submit_sync(slot);
  switch (request.command) {
    case BlockCommand::Read:
      return loop_.readv(file_for(slot), request.data, request.offset + slot.shift, slot);
    case BlockCommand::Write:
      return loop_.writev(file_for(slot), request.data, request.offset + slot.shift, slot);
    case BlockCommand::Flush:
      return submit_sync(slot);
    case BlockCommand::Discard:
    case BlockCommand::WriteZeroes:
      return submit_range(slot);
    case BlockCommand::GetId:
      break;
  }
  ensure(false, "a request without an operation was submitted");
}

/// Ranges go one after another: a request of many is rare, and one operation a slot keeps the ring's bounds.
void BlockDevice::next_range(Slot& slot) noexcept {
  while (slot.range < slot.request.range_count && slot.ranges[slot.range].length == 0) ++slot.range;
  if (slot.range == slot.request.range_count) return stored(slot);
  const BlockRange& range = slot.ranges[slot.range];
  if (slot.backing->image.layers() != nullptr) return store(slot, range.offset, range.length);
  submit_range(slot);
}

void BlockDevice::submit_range(Slot& slot) noexcept {
  const BlockRange& range = slot.ranges[slot.range];
  // 5.2.6.2: an unmap of zeroes is a wish.
  const bool hole = slot.request.command == BlockCommand::Discard || (range.unmap && gives_up_space()) ||
                    slot.backing->image.layers() != nullptr;  // an overlay promises no space
  const int mode = FALLOC_FL_KEEP_SIZE | (hole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
  loop_.fallocate(slot.backing->file, mode, range.offset + slot.shift, range.length, slot);
}

/// The image as it is open, or past O_DIRECT where place, lengths or the guest's buffers do not suit it.
const RegisteredFile& BlockDevice::file_for(const Slot& slot) const noexcept {
  const Backing& backing = *slot.backing;
  if (backing.image.layers() != nullptr) return file_of(backing, slot.layer);
  if (!backing.image.direct()) return backing.file;
  const std::uint64_t memory_mask = backing.image.memory_alignment() - 1;
  const std::uint64_t file_mask = backing.image.file_alignment() - 1;
  std::uint64_t in_file = slot.request.offset;
  std::uint64_t in_memory = 0;
  for (const iovec& buffer : slot.request.data) {
    in_file |= buffer.iov_len;
    in_memory |= std::bit_cast<std::uintptr_t>(buffer.iov_base);
  }
  const bool suits = !slot.buffered && (in_file & file_mask) == 0 && (in_memory & memory_mask) == 0;
  return suits ? backing.file : backing.buffered_file;
}

void BlockDevice::Slot::on_complete(int result, bool /*more*/) noexcept {
  const MutexLock lock{owner.mutex()};
  owner.on_result(*this, result);
  owner.after_completion();
}

void BlockDevice::after_completion() noexcept {
  end_drain();
  if (std::exchange(starved_, false)) serve();
}

void BlockDevice::on_result(Slot& slot, int result) noexcept {
  if (result < 0) {
    if (retry(slot, -result)) return submit(slot);
    return fail_request(slot, -result);
  }
  if (slot.step != Slot::Step::Main) return on_step(slot, result);
  if (slot.syncing) return answer(slot, VIRTIO_BLK_S_OK);
  switch (slot.request.command) {
    case BlockCommand::Read:
    case BlockCommand::Write:
      // Nothing, though something was asked for: the file ends before the drive does. ENODATA says so in the log.
      if (result == 0) return fail_request(slot, ENODATA);
      return on_transferred(slot, static_cast<std::uint64_t>(result));
    case BlockCommand::Discard:
    case BlockCommand::WriteZeroes:
      return slot.touches ? record_touch(slot) : stored_or_next_range(slot);
    case BlockCommand::Flush:
    case BlockCommand::GetId:
      return answer(slot, VIRTIO_BLK_S_OK);
  }
}

void BlockDevice::on_transferred(Slot& slot, std::uint64_t count) noexcept {
  BlockRequest& request = slot.request;
  slot.transferred += count;
  request.offset += count;
  request.data = drop_front(request.data, count);
  if (slot.transferred < request.length) return submit(slot);
  if (slot.touches) return record_touch(slot);
  if (request.command == BlockCommand::Write) return stored(slot);
  answer(slot, VIRTIO_BLK_S_OK);
}

void BlockDevice::stored_or_next_range(Slot& slot) noexcept {
  if (slot.request.command == BlockCommand::Write) return stored(slot);
  ++slot.range;
  next_range(slot);
}

/// A request that changed the image is done, but perhaps for stable storage.
void BlockDevice::stored(Slot& slot) noexcept {
  if (!writes_through()) return answer(slot, VIRTIO_BLK_S_OK);
  slot.syncing = true;
  submit(slot);
}

bool BlockDevice::retry(Slot& slot, int error_number) noexcept {
  if (error_number == EINVAL && is_transfer(slot.request.command) && slot.backing->image.direct())
    return !std::exchange(slot.buffered, true);  // O_DIRECT wants more than it says
  return (error_number == EINTR || error_number == EAGAIN) && slot.retries++ < kMaximumRetries;
}

void BlockDevice::fail_request(Slot& slot, int error_number) noexcept {
  const BlockRequest& request = slot.request;
  const bool ranges = request.command == BlockCommand::Discard || request.command == BlockCommand::WriteZeroes;
  if (error_number == EOPNOTSUPP && ranges && !slot.syncing) {
    // The driver writes the zeroes itself, and pays for them then; not for ranges that were done.
    limiter_->give_back(slot.payment, charge(slot, slot.range));
    return answer(slot, VIRTIO_BLK_S_UNSUPP);
  }
  metrics_.execute_fails.add();
  if (request.command == BlockCommand::Flush || slot.syncing) note_failed_flush();
  if (log_rate_.allow()) {
    const std::uint64_t at =
        ranges && slot.range < request.range_count ? slot.ranges[slot.range].offset : request.offset;
    log_.warning(
        "{}: {} {} at byte {} failed: {}", name_, names_of(request.command).doing, slot.backing->image.path(), at,
        error_number == ENODATA ? std::string{"the file ends there; it was made shorter"} : errno_text(error_number));
  }
  answer(slot, VIRTIO_BLK_S_IOERR);
}

// --- Data path: what the driver gets back ----------------------------------------------------------------------------

void BlockDevice::answer_id(Slot& slot) noexcept {
  // 5.2.6: 20 bytes, padded with zeroes; all of them are used by a longer name.
  std::array<std::byte, VIRTIO_BLK_ID_BYTES> id{};
  std::memcpy(id.data(), config_.drive_id.data(), std::min(config_.drive_id.size(), id.size()));
  copy_to(slot.request.data, 0, id);
  slot.transferred = std::min<std::uint64_t>(slot.request.length, id.size());
  answer(slot, VIRTIO_BLK_S_OK);
}

/// Status byte last, then the chain: what the driver finds with the chain is complete.
void BlockDevice::answer(Slot& slot, std::uint8_t status) noexcept {
  if (slot.touches) end_touch(slot);
  const BlockRequest& request = slot.request;
  std::uint32_t written = 0;
  if (request.status != nullptr) {
    *request.status = std::byte{status};
    const bool fills = request.command == BlockCommand::Read || request.command == BlockCommand::GetId;
    written = static_cast<std::uint32_t>(fills ? slot.transferred : 0) + 1;
  }
  if (status == VIRTIO_BLK_S_OK) count(slot);
  queue_->put(std::move(*slot.chain), written);
  slot.chain.reset();
  slot.backing.reset();
  slots_.give_back(slot);
  if (!retired_.empty()) sync_retired();
  host().used(0);
}

void BlockDevice::count(const Slot& slot) noexcept {
  const CommandNames names = names_of(slot.request.command);
  if (names.count != nullptr) (metrics_.*names.count).add();
  if (names.bytes != nullptr) (metrics_.*names.bytes).add(slot.transferred);
}

}  // namespace mayfly
