#pragma once

#include "snapshot/held_memory.h"
#include "snapshot/pages.h"
#include "snapshot/snapshot.h"
#include "vmm/base/error.h"
#include "vmm/machine/virtio_devices.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// One started machine, as its controller sees it: a Microvm, or a fake in tests.
///
/// What takes time is begun here and calls back at its end, in a task of its own on the loop's thread: nobody waits.
/// Members are for the loop's thread, but where they say otherwise.
namespace mayfly {

/// What came of Machine::revert().
struct RevertOutcome {
  Status status{};
  bool is_half_done = false;  ///< The machine must not run on; else an error has changed nothing.
  std::uint64_t dropped = 0;  ///< Bytes of memory that had changed.
};

enum class SnapshotEnd {
  None,
  StateAlone,  ///< Counts, but is no base of a diff.
  Whole
};

class Machine {
 public:
  using Done = std::function<void()>;
  Machine() = default;
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  virtual ~Machine() = default;

  // --- The vCPUs, and time as the guest sees it
  /// Asks the vCPUs to park; `paused` follows once, when all have and the guest's time is frozen, unless resume()
  /// comes first. A vCPU that resets a device parks only when the device's requests are back.
  virtual void pause(Done paused) = 0;
  /// Lets them run, also those that have not parked yet.
  virtual void resume() = 0;
  /// Has the vCPUs wait although the machine runs, or lets them go on. The guest sees time go by.
  virtual void hold_back(bool on) = 0;

  // --- Devices' I/O: while paused
  /// `drained` follows once, when nothing is in flight, unless undrain() comes first.
  virtual void drain(Done drained) = 0;
  virtual void undrain() = 0;
  /// Which drives and interfaces have not drained: their names, for an error.
  [[nodiscard]] virtual std::string undrained() const = 0;

  // --- For a snapshot: drained
  /// Everything of the machine but its memory and what was configured. Error: KVM's.
  [[nodiscard]] virtual Result<Snapshot> save() = 0;
  /// Puts what drives have written on stable storage, takes those that are to be frozen, and notes what the snapshot
  /// finds as their images, with the times of change as they are then. Any thread. Errors: as BlockDevice::sync().
  [[nodiscard]] virtual Status sync_drives(Snapshot& snapshot, DriveSync which = DriveSync::All) = 0;
  /// Whether a drive has to be synced, or noted, while a machine stands still that is to go on before its memory is written.
  [[nodiscard]] virtual bool writes_to_drives() const = 0;
  /// The pages that the guest and the devices have written to since the last snapshot that counts, or more; nullopt where
  /// nothing kept track. Not while a live snapshot is written, whose end_snapshot() would forget them. Error: KVM's.
  [[nodiscard]] virtual Result<std::optional<PageRanges>> changes() = 0;
  /// What became of the snapshot that drives were synced and changes taken for.
  virtual void end_snapshot(SnapshotEnd end) = 0;
  [[nodiscard]] virtual GuestMemory& memory() = 0;
  /// Drained, of a machine that is to go on: notes what DriveSync::Plain is to sync then. Any thread: it may wait for a disk.
  /// Error: no descriptors left.
  [[nodiscard]] virtual Status note_sync_point() = 0;
  /// Memory as it is now, for a worker to write while the machine goes on. Errors: as HeldMemory::hold().
  [[nodiscard]] virtual Result<std::shared_ptr<HeldMemory>> hold_memory() = 0;

  // --- Back to the snapshot that it was restored from
  /// Whether it can, as far as that is known while it runs. Errors: as mayfly::check_revert().
  [[nodiscard]] virtual Status check_revert() const = 0;
  /// Drained: goes back. Then its devices are at work, and its vCPUs wait for resume().
  [[nodiscard]] virtual RevertOutcome revert(bool clock_realtime) = 0;

  // --- Working sets
  /// Begins to bring the working set in, if there is one: once, after the machine was resumed if it is to be.
  virtual void fetch_working_set() = 0;
  // Of the recorder, for a machine that was restored with one.
  [[nodiscard]] virtual std::vector<std::uint64_t> touched() const = 0;
  virtual void stop_recording() = 0;

  // --- Devices
  /// Presses Ctrl-Alt-Del on the guest's keyboard. Error: the guest has not set its keyboard up.
  [[nodiscard]] virtual Status press_ctrl_alt_del() = 0;
  /// One that is configured. Any thread.
  [[nodiscard]] virtual BlockDevice& drive(std::string_view id) = 0;
  [[nodiscard]] virtual NetDevice& network_interface(std::string_view id) = 0;
  /// Paused, and never resumed: `written` follows when the serial port's output is out, or after 200 ms if its reader
  /// is slow.
  virtual void drain_console(Done written) = 0;
};

}  // namespace mayfly
