#pragma once

#include "snapshot/working_set.h"
#include "vmm/machine/board.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/prepared_vm.h"

#include <memory>
#include <vector>

namespace mayfly {

/// Guest memory as it was, and who gives its pages.
struct RestoredMemory {
  GuestMemory memory;
  OwnedFd userfault{};                             ///< Of a page server; none: the memory is a file's.
  OwnedFd page_server{};                           ///< The connection to it; none: as above.
  std::unique_ptr<WorkingSetRecorder> recorder{};  ///< That gives the pages; none: nobody wants to know.
  WorkingSet needed_first{};                       ///< To be replayed.
};

/// A machine to restore.
struct RestorePlan {
  PreparedVm prepared;
  /// Decoded and checked; track_dirty_pages and huge_pages are those of the new machine.
  std::shared_ptr<const Snapshot> snapshot;
  RestoredMemory memory;
  DevicePlans devices;  ///< By the snapshot's configuration and what the load request overrides, in its order.
  ConsoleOptions console;
  bool clock_realtime = true;         ///< The guest's clock goes ahead by the time since the snapshot.
  bool allow_changed_drives = false;  ///< Restore though an image has changed since.
  bool revertible = false;            ///< The machine may go back to it.
  bool is_branch = false;             ///< Its guest runs on this host already: nothing that it saw is lacking.
};

/// Puts the machine of a snapshot together, with a new identity, vCPUs parked. Loop's thread. Errors: KVM's, what
/// does not fit this host, or has changed; nothing is left behind then.
[[nodiscard]] Result<std::unique_ptr<Board>> restore(RestorePlan plan, MachineContext context);

/// Whether the machine can go back to the snapshot that it was restored from, as far as its devices are concerned. Errors:
/// a drive that cannot; one that was restored without `revertible`.
[[nodiscard]] Status check_revert(const Board& board);

/// Takes a machine that was restored back, with a new identity: memory, devices, vCPUs and clock. vCPUs are parked
/// and devices drained; they are as after restore() then. Loop's thread. Errors: as check_revert(); an interrupt of the PIC
/// that KVM does not give back; KVM's.
[[nodiscard]] RevertOutcome revert(Board& board, bool clock_realtime);

}  // namespace mayfly
