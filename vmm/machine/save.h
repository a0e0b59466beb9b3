#pragma once

#include "snapshot/copy_bound.h"
#include "snapshot/file_pair.h"
#include "snapshot/memory_file.h"
#include "snapshot/snapshot.h"
#include "vmm/config/configuration.h"
#include "vmm/machine/board.h"
#include "vmm/machine/machine.h"

#include <memory>
#include <optional>
#include <stop_token>
#include <vector>

/// A snapshot is taken in two parts: save() reads KVM and the devices, on the loop's thread; write_snapshot() puts that
/// and the memory into files, on a thread of its own, while the loop answers.
namespace mayfly {

/// Paused and drained: everything of the machine but its memory and what was configured. Error: KVM's.
[[nodiscard]] Result<Snapshot> save(Board& board);

/// What a machine's last snapshot is to a diff.
struct DiffBase {
  SnapshotId id{};
  bool may_be_diff = false;      ///< So may its memory file; that of a machine that was loaded from one file is whole.
  bool rests_on_loaded = false;  ///< Worth nothing without the files that the machine was loaded from.
  std::vector<SnapshotId> needs{};  ///< Snapshots that the machine took or was loaded from, and that it is a diff of.
  /// Where guest memory may have been other than zeros, in ranges of its file; none: anywhere, as after a load.
  std::shared_ptr<const PageRanges> data{};
};

/// Where a snapshot's pair goes: both new files, and the base that is to be merged with the memory.
struct PairPlaces {
  NewFile memory;
  NewFile state;
  std::optional<OwnedFd> base{};
};
/// Makes both files. Any thread, as write_snapshot(). Errors: whatever can be known of the paths before anything is written.
[[nodiscard]] Result<PairPlaces> take_places(const SnapshotCreateParams& params, const std::optional<DiffBase>& base,
                                             const GuestMemory& memory);

/// What write_snapshot() writes. The machine stays drained, unless its memory is held, and lives, until it returns.
struct SnapshotOrder {
  SnapshotCreateParams params;
  Snapshot snapshot;                    ///< Complete, but for its id.
  std::optional<DiffBase> base{};       ///< None: a full snapshot.
  std::optional<PageRanges> changes{};  ///< Since the base; none: nobody kept track.
  Machine& machine;                     ///< Its drives, and memory.
  EventLoop& loop;                      ///< Writes the pages.
  /// Memory as it was when the state was read: the machine goes on. None: it stays drained.
  std::shared_ptr<HeldMemory> held{};
  std::shared_ptr<WritingProgress> progress{};
  std::shared_ptr<CopyBound> bound{};  ///< Of what writes cost meanwhile.
  std::optional<PairPlaces> places{};  ///< None: they are taken at the beginning.
};

/// What became of it.
struct SnapshotOutcome {
  std::optional<SnapshotId>
      counts{};         ///< The new pair loads. If not, nothing has changed, or `status` says what is lost.
  bool merged = false;  ///< A diff, with its base, in the base's file.
  std::shared_ptr<const PageRanges> data{};  ///< DiffBase::data of what was written.
  Status status{};                           ///< Good only if the new pair is in place, and on stable storage.
};

/// Whether all that it names are files of their own, and drives that there are, and its fields go together.
[[nodiscard]] Status check_paths(const SnapshotCreateParams& params, const std::vector<DriveConfig>& drives);

/// Writes the pair of files: all of the old pair, or all of the new one, counts at every moment. Any thread but the
/// loop's, which must be running. Errors: a disk's, a path's; a stop.
[[nodiscard]] SnapshotOutcome write_snapshot(SnapshotOrder order, const std::stop_token& stop);

}  // namespace mayfly
