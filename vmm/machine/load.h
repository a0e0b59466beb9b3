#pragma once

#include "vmm/base/log.h"
#include "vmm/base/thread_kind.h"
#include "vmm/config/configuration.h"
#include "vmm/machine/configured_channels.h"
#include "vmm/machine/configured_devices.h"
#include "vmm/machine/restore.h"

#include <memory>
#include <optional>
#include <stop_token>
#include <vector>

/// What PUT /snapshot/load needs before restore(): the state file, the devices, and the memory, in this order.
namespace mayfly {

/// A snapshot that is about to be restored; its memory is still to come.
struct Load {
  SnapshotLoadParams params;
  std::shared_ptr<const Snapshot> snapshot;  ///< With the request's track_dirty_pages and huge_pages.
  ConfiguredDevices devices;
  ConfiguredChannels channels;
  bool is_branch = false;  ///< Of a machine, whose memory is here.
};

/// That there is nothing yet where a child's overlay is to be made.
[[nodiscard]] Status check_new_overlay(const DriveOverride& drive);
/// The same for a child of a machine (PUT /vm/branch): `snapshot` is what its parent was, and its overlays are new. Errors:
/// as begin_load(); an overlay is there already.
[[nodiscard]] Result<Load> begin_branch(std::shared_ptr<const Snapshot> snapshot, const BranchChild& child,
                                        bool resume_vm);

/// Reads the state file and opens the devices. Errors: what is wrong with either, or does not fit this host.
[[nodiscard]] Result<Load> begin_load(SnapshotLoadParams params);

/// Memory of files: mapped, replayed or recorded, as the request says. Errors: the files', a working set's.
[[nodiscard]] Result<RestoredMemory> memory_of_file(const Load& load, Log& log, const ThreadEntry& enter_thread,
                                                    const std::stop_token& stop = {});
/// Whether memory_of_file() may read much, and take long: into huge pages all of it; of several files the parts that are
/// too many to be mapped, and those of a diff without a table. Then any thread.
[[nodiscard]] bool reads_memory(const Load& load);

/// Memory of a page server, which may be slow: any thread. Errors: as hand_to_page_server().
[[nodiscard]] Result<RestoredMemory> memory_of_page_server(const Load& load, const std::stop_token& stop);

/// Whether a working set can be recorded to the path that the request names, as far as can be known beforehand, and
/// destroys nothing of the snapshot's.
[[nodiscard]] Status check_recording_path(const SnapshotLoadParams& params);

}  // namespace mayfly
