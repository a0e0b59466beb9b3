#pragma once

#include "virtio/block/block_device_state.h"
#include "virtio/block/block_request.h"
#include "virtio/block/disk_image.h"
#include "virtio/block/drive_freeze.h"
#include "virtio/block/overlay_map.h"
#include "virtio/device.h"
#include "virtio/rate_limiter.h"
#include "virtio/slot_pool.h"
#include "vmm/base/error.h"
#include "vmm/base/log.h"
#include "vmm/base/mapping.h"
#include "vmm/base/metrics.h"
#include "vmm/config/configuration.h"
#include "vmm/io/event_loop.h"

#include <array>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// A drive: virtio-blk (virtio 1.2, 5.2) over a DiskImage.
///
///   auto image = DiskImage::open(config);
///   auto drive = BlockDevice::create(config, std::move(*image), loop, metrics.block, log);
///   auto transport = MmioTransport::create(**drive, place);
///
/// Each request is one operation of the loop's ring, straight from or to guest memory; as many are in flight as the
/// queue holds, and they come back in any order. Nothing is allocated for one, and nothing is copied.
///
/// A read that comes alone is first tried without waiting (RWF_NOWAIT): what is in the host's page cache is answered
/// within the kick, which saves a round through the ring. Cached 4 KiB reads, with the driver on the loop's thread: at
/// depth 1 1.7 us of CPU against 2.4 by the ring, one system call each; at depth 32, where all go through the ring
/// together, 1.5 us and 0.03 system calls.
///
/// Limits count what the host has to do: the bytes that cross, the length of zeroes to write (where the host cannot
/// write them, those that were not are given back), and a fixed sum for a flush and for each range of a discard.
///
/// A drive in layers is the same device over an overlay (block_layers.cpp, block_settle.cpp). Reads go to each layer that
/// has a part; writes go to the overlay, and those of blocks that it has need nothing more than a plain drive's.
///
/// What the host fails is VIRTIO_BLK_S_IOERR for the guest, a metric, and a line in the log at a bounded rate; what its
/// file system cannot do (holes) is VIRTIO_BLK_S_UNSUPP, upon which Linux writes zeroes itself.
///
/// SIGXFSZ must be ignored by the process: a limit on file sizes is then such a failure, too.
namespace mayfly {

class BlockDevice final : public VirtioDevice {
 public:
  static constexpr std::uint16_t kQueueSize = 256;
  /// Data buffers of one request: a chain's segments without header and status.
  static constexpr std::uint32_t kMaximumDataSegments = VirtQueue::kMaximumSegments - 2;
  /// Bytes that the limiter takes for a flush, and for each range of a discard: work for the host's disk and file
  /// system that has no length. One block of most file systems.
  static constexpr std::uint64_t kFixedCharge = 4096;

  /// `image` was opened by the same config. Loop's thread. Errors: the ring takes no more files, no descriptors left.
  [[nodiscard]] static Result<std::unique_ptr<BlockDevice>> create(const DriveConfig& config, DiskImage image,
                                                                   EventLoop& loop, BlockMetrics& metrics, Log& log);
  /// Loop's thread; nothing is in flight, or the loop was closed.
  ~BlockDevice() override;

  [[nodiscard]] std::uint32_t type() const noexcept override;
  [[nodiscard]] std::string_view name() const noexcept override { return name_; }
  [[nodiscard]] std::uint64_t features() const noexcept override;
  [[nodiscard]] FeatureText feature_text(unsigned feature) const noexcept override;
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const noexcept override { return kQueueSizes; }

  // VirtioDevice: under the lock
  void read_config(std::uint64_t offset, std::span<std::byte> data) const noexcept override;
  void activate(std::uint64_t features, std::span<VirtQueue> queues) noexcept override;
  void reset() noexcept override;
  void on_kick(unsigned queue) noexcept override;
  void drain() noexcept override;
  void undrain() noexcept override;

  // For the API: loop's thread; these take the lock themselves.

  /// PATCH of the limits, as RateLimiter::update().
  void update_rate_limiter(const RateLimiterConfig& config);
  /// Puts another image behind the drive while it runs. Requests in flight end on the old one, which is unlocked with
  /// the last of them; the driver is told of the new capacity. What the guest has written to the old one goes to stable
  /// storage then (Writeback): flushes wait for that, and the next one fails where that fails. The old one is closed
  /// afterwards. Errors, with nothing changed: read-only behind a writable drive or the reverse, another block size,
  /// the ring takes no more files.
  [[nodiscard]] Status replace_image(DiskImage image);
  /// PATCH of path_on_host: opens it as this drive's image was, and replaces it. The drive's own file may be given
  /// again, for its new size, and so may one that is still being synced. Errors: those of DiskImage::open() and
  /// replace_image().
  [[nodiscard]] Status replace_path(const std::string& path);

  /// Whether the guest writes to a block device of the host, which has no time of change that a load could compare. Loop's
  /// thread.
  [[nodiscard]] bool changes_unseen() const {
    const MutexLock lock{mutex()};
    return !config_.is_read_only && backing_->image.is_block_device();
  }

  // For snapshots: loop's thread, quiesced or never activated.

  [[nodiscard]] BlockDeviceState state() const;
  /// Puts what the guest has written on stable storage; with a freeze prepared, takes the image as well. Waits for the
  /// disk. Errors: the disk's, upon which the guest's next flush fails, too; those of DriveFreeze::take().
  [[nodiscard]] Status sync();
  // The same for the plain image of a machine that goes on before it is synced; of other drives these do nothing.

  /// From here on, what the guest has written until now can be synced. Drained; any thread, as it may wait for the disk.
  /// Error: no descriptors left.
  [[nodiscard]] Status note_sync_point();
  /// Syncs it. Waits for the disk; any thread. Errors: the disk's, upon which the guest's next flush fails, too; a flush
  /// has failed since that point, and may have been told alone what the disk lacks.
  [[nodiscard]] Status sync_to_point();
  /// After these: the snapshot counts, or there is none.
  void end_snapshot(bool counts);
  /// What a snapshot is to find when it is loaded: the image, or what a freeze has taken.
  [[nodiscard]] ImageIdentity kept_image() const;
  // A freeze, for a snapshot that keeps the image under a name of its own: see DriveFreeze. prepare_freeze() and
  // end_freeze() are for the loop's thread, what is between them for any; all without a freeze do nothing.

  /// Errors: those of DriveFreeze::prepare(), the ring takes no more files. sync() takes the image then.
  [[nodiscard]] Status prepare_freeze(const std::string& path);
  [[nodiscard]] bool is_freezing() const {
    const MutexLock lock{mutex()};
    return freezing_.has_value();
  }
  /// The snapshot is about to count. Waits for the disk. Errors: those of DriveFreeze::settle().
  [[nodiscard]] Status settle_freeze();
  /// The snapshot failed: undoes what was done. Waits for the disk. Error: that of DriveFreeze::drop().
  [[nodiscard]] Status drop_freeze();
  /// Whether the image has become a layer of that name, over which there is a new overlay now.
  [[nodiscard]] bool end_freeze(bool counts);

  /// Drops all that was written to the drive's overlay since it was made: its layers show everywhere. Nothing is in
  /// flight. A drive that is only read has nothing to drop; one that is written to has an overlay. Waits for the disk where
  /// the guest has flushed what it wrote. Error: the file system's. Calls fallocate(2), which the loop's filter must allow
  /// whoever calls this.
  [[nodiscard]] Status empty_overlay();
  /// Whether an image that was swapped out is still to be synced, as it can be of a device that is not active, too.
  /// Loop's thread.
  [[nodiscard]] bool syncs_old_images() const noexcept {
    const MutexLock lock{mutex()};
    return !retired_.empty();
  }
  /// Whether the image may have changed since the snapshot. Replaced: it is another file, whose time of change says
  /// nothing; where the snapshot's file is a layer below, that one must be unchanged.
  enum class Images { Unchanged, Replaced, MayDiffer };
  /// Before the transport's restore(). The features are the transport's to give back. Where a read-only image should
  /// be Unchanged and has another time of change, the log says so: copies have one, and only content matters. Errors:
  /// the image has another size than it had or, where it is written and must be Unchanged, another time of change.
  [[nodiscard]] Status restore(const BlockDeviceState& state, Images images);
  /// What is there now is the snapshot's, before the guest has run: for can_revert().
  void note_revert_point();
  /// Whether what the guest reads can be what it was at the revert point again: its image is only read, or the overlay
  /// was empty then. Error: neither, or a snapshot has it since, or it has had another image.
  [[nodiscard]] Status can_revert() const;

 private:
  struct Slot;
  struct Spread;
  struct Retired;
  struct Backing;
  /// Makes durable what an overlay has: one at a time, for all who wait by then. Begun by settle(); see OverlayMap.
  struct Settling final : Operation {
    Settling(BlockDevice& owner_in, Backing& backing_in) noexcept : owner(owner_in), backing(backing_in) {}
    void on_complete(int result, bool more) noexcept override;
    enum class Step : std::uint8_t { Idle, SyncData, WriteMap, SyncMap };
    BlockDevice& owner;
    Backing& backing;
    Step step = Step::Idle;
    std::uint64_t at = 0;       // of the map's sectors: the next one
    OverlayMap::Write write{};  // what is left of a piece
    iovec vector{};
    unsigned retries = 0;
    // Linked by `next`. Those who came later, and may have written since, wait for the next one.
    Slot* served = nullptr;
    Slot* waiting = nullptr;
    Retired* retired = nullptr;  // the image was swapped out: nobody else waits
  };
  /// An image and its place in the ring; alive as long as it is the drive's, or a request is on it.
  struct Backing {
    Backing(BlockDevice& owner, DiskImage image_in) noexcept : image(std::move(image_in)), settling(owner, *this) {}
    DiskImage image;
    RegisteredFile file;
    RegisteredFile buffered_file;  // of image.buffered_fd()
    std::vector<RegisteredFile> below;
    Settling settling;
  };
  /// An image that was swapped out, until what the guest has written to it is on stable storage.
  struct Retired final : Operation {
    Retired(BlockDevice& owner_in, std::shared_ptr<Backing> backing_in) noexcept
        : owner(owner_in), backing(std::move(backing_in)) {}
    void on_complete(int result, bool more) noexcept override;
    BlockDevice& owner;
    std::shared_ptr<Backing> backing;
    bool syncing = false;
    unsigned retries = 0;
  };
  /// Comes back at once: serves what was left for the sake of others in the loop.
  struct Requeue final : Operation {
    explicit Requeue(BlockDevice& owner_in) noexcept : owner(owner_in) {}
    void on_complete(int result, bool more) noexcept override;
    BlockDevice& owner;
    bool asked = false;
  };

  static constexpr std::array<std::uint16_t, 1> kQueueSizes{kQueueSize};
  /// EINTR and EAGAIN of one operation; the kernel gives neither for long.
  static constexpr unsigned kMaximumRetries = 64;

  struct Freezing {
    DriveFreeze freeze;
    RegisteredFile made;  // its file
  };
  /// What note_sync_point() notes.
  struct SyncPoint {
    struct File {
      std::string path;
      OwnedFd fd;
    };
    std::vector<File> files{};  // that the guest had written to
    bool flush_failed = false;  // since
  };

  BlockDevice(const DriveConfig& config, EventLoop& loop, BlockMetrics& metrics, Log& log);
  [[nodiscard]] Result<std::shared_ptr<Backing>> make_backing(DiskImage image);

  /// The image at a path that comes back, or the present one.
  [[nodiscard]] std::shared_ptr<Backing> backing_for(const std::string& path) const;

  /// Null: there is no freeze. Nobody changes either before end_freeze().
  [[nodiscard]] std::pair<DriveFreeze*, const DiskImage*> freezing();
  void note_lost_writes();
  [[nodiscard]] std::optional<Status> overlay_at(const std::string& path);
  [[nodiscard]] std::vector<std::string> layer_paths() const;

  // Images that were swapped out: under the lock, on the loop's thread
  void retire(std::shared_ptr<Backing> backing) REQUIRES(mutex());
  void sync_retired() noexcept REQUIRES(mutex());
  void note_failed_flush() noexcept REQUIRES(mutex()) {
    if (sync_point_) sync_point_->flush_failed = true;
  }
  void on_retired_synced(Retired& retired, int error_number) noexcept REQUIRES(mutex());
  void release_flushes() noexcept REQUIRES(mutex());
  [[nodiscard]] bool is_idle() const noexcept REQUIRES(mutex()) { return slots_.in_use() == 0 && retired_.empty(); }
  void end_drain() noexcept REQUIRES(mutex());

  // Requests: under the lock, on the loop's thread
  void serve() noexcept REQUIRES(mutex());
  void begin(Slot& slot, bool alone) noexcept REQUIRES(mutex());
  [[nodiscard]] bool admit(Slot& slot) noexcept REQUIRES(mutex());
  [[nodiscard]] std::uint64_t charge(const Slot& slot, std::size_t first_range) const noexcept;
  [[nodiscard]] bool read_cached(Slot& slot, int fd) noexcept REQUIRES(mutex());
  void flush(Slot& slot) noexcept REQUIRES(mutex());
  void submit(Slot& slot) noexcept REQUIRES(mutex());
  void next_range(Slot& slot) noexcept REQUIRES(mutex());
  void submit_range(Slot& slot) noexcept REQUIRES(mutex());
  [[nodiscard]] const RegisteredFile& file_for(const Slot& slot) const noexcept;
  void on_result(Slot& slot, int result) noexcept REQUIRES(mutex());
  void on_transferred(Slot& slot, std::uint64_t count) noexcept REQUIRES(mutex());
  [[nodiscard]] bool retry(Slot& slot, int error_number) noexcept;
  void fail_request(Slot& slot, int error_number) noexcept REQUIRES(mutex());
  void stored(Slot& slot) noexcept REQUIRES(mutex());
  void answer(Slot& slot, std::uint8_t status) noexcept REQUIRES(mutex());
  void answer_id(Slot& slot) noexcept REQUIRES(mutex());
  void count(const Slot& slot) noexcept;

  // Layers: under the lock, on the loop's thread
  [[nodiscard]] bool reserve_for_layers() noexcept REQUIRES(mutex());
  void begin_layered(Slot& slot, bool alone) noexcept REQUIRES(mutex());
  void read_layers(Slot& slot, bool alone) noexcept REQUIRES(mutex());
  void spread(Slot& slot) noexcept REQUIRES(mutex());
  void submit_part(Spread& spread, std::size_t part) noexcept REQUIRES(mutex());
  void on_part(Spread& spread, std::size_t part, int result) noexcept REQUIRES(mutex());
  [[nodiscard]] const RegisteredFile& file_of(const Backing& backing, std::size_t layer) const noexcept;
  void store(Slot& slot, std::uint64_t offset, std::uint64_t length) noexcept REQUIRES(mutex());
  void begin_touch(Slot& slot) noexcept REQUIRES(mutex());
  void fill_next_edge(Slot& slot) noexcept REQUIRES(mutex());
  void submit_step(Slot& slot) noexcept REQUIRES(mutex());
  void on_step(Slot& slot, int result) noexcept REQUIRES(mutex());
  /// The blocks that a touch makes present.
  struct Blocks {
    std::uint64_t first;
    std::uint64_t count;
  };
  [[nodiscard]] static Blocks touched_blocks(const Slot& slot, const OverlayMap& map) noexcept;
  void record_touch(Slot& slot) noexcept REQUIRES(mutex());
  void end_touch(Slot& slot) noexcept REQUIRES(mutex());
  void stored_or_next_range(Slot& slot) noexcept REQUIRES(mutex());
  void submit_sync(Slot& slot) noexcept REQUIRES(mutex());
  void settle(Settling& settling) noexcept REQUIRES(mutex());
  void submit_settling(Settling& settling) noexcept REQUIRES(mutex());
  void on_settling(Settling& settling, int result) noexcept REQUIRES(mutex());
  void end_settling(Settling& settling, int error_number) noexcept REQUIRES(mutex());
  void after_completion() noexcept REQUIRES(mutex());

  void on_tokens() noexcept;
  [[nodiscard]] bool writes_through() const noexcept REQUIRES(mutex());
  /// Whether the guest may punch holes into the image.
  [[nodiscard]] bool gives_up_space() const noexcept {
    return config_.discard == Discard::Unmap && !config_.is_read_only;
  }

  // Configuration
  const DriveConfig config_;
  const std::string name_;
  EventLoop& loop_;
  BlockMetrics& metrics_;
  Log& log_;
  LogRate log_rate_;

  // State
  std::shared_ptr<Backing> backing_ GUARDED_BY(mutex());
  bool replaced_ GUARDED_BY(mutex()) = false;            // by another image, or the same one anew
  bool was_empty_ GUARDED_BY(mutex()) = false;           // its overlay, at the revert point
  bool in_snapshot_ GUARDED_BY(mutex()) = false;         // what is in its overlay
  bool may_be_in_snapshot_ GUARDED_BY(mutex()) = false;  // the same, in one that is being taken
  std::list<Retired> retired_ GUARDED_BY(mutex());
  std::optional<Freezing> freezing_ GUARDED_BY(mutex());
  std::optional<SyncPoint> sync_point_ GUARDED_BY(mutex());
  bool lost_writes_ GUARDED_BY(mutex()) = false;  // as in BlockDeviceState
  std::unique_ptr<RateLimiter> limiter_ GUARDED_BY(mutex());
  std::uint64_t features_ GUARDED_BY(mutex()) = 0;
  VirtQueue* queue_ GUARDED_BY(mutex()) = nullptr;  // of the driver
  bool throttled_ GUARDED_BY(mutex()) = false;      // the limiter refused, and will call
  bool starved_ GUARDED_BY(mutex()) = false;        // there was no slot for the next chain

  SlotPool<Slot, kQueueSize> slots_ GUARDED_BY(mutex());
  // Of a drive in layers: for reads that go to several, and those requests that write blocks which the overlay lacks.
  SlotPool<Spread, kQueueSize> spreads_ GUARDED_BY(mutex());
  std::array<Slot*, kQueueSize> touching_ GUARDED_BY(mutex()){};
  std::size_t touching_count_ GUARDED_BY(mutex()) = 0;
  Mapping edges_ GUARDED_BY(mutex());                    // a block for each slot
  Slot* waiting_flushes_ GUARDED_BY(mutex()) = nullptr;  // for retired_ to be empty
  Requeue requeue_{*this};
  // Reads that were not in the page cache teach to try less often.
  unsigned cache_misses_ GUARDED_BY(mutex()) = 0;
  unsigned skip_cached_ GUARDED_BY(mutex()) = 0;
  bool may_read_cached_ GUARDED_BY(mutex()) = true;
};

}  // namespace mayfly
