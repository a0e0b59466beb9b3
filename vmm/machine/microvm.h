#pragma once

#include "vmm/io/loop_timer.h"
#include "vmm/machine/board.h"
#include "vmm/machine/machine.h"

#include <memory>

namespace mayfly {

/// Runs what boot() or restore() has put together: KVM, real devices and threads.
class Microvm final : public Machine {
 public:
  explicit Microvm(std::unique_ptr<Board> board);
  ~Microvm() override;

  void pause(Done paused) override;
  void resume() override;
  void hold_back(bool on) override;
  void drain(Done drained) override;
  void undrain() override;
  [[nodiscard]] std::string undrained() const override;
  [[nodiscard]] Result<Snapshot> save() override;
  [[nodiscard]] Status sync_drives(Snapshot& snapshot, DriveSync which) override;
  [[nodiscard]] bool writes_to_drives() const override;
  [[nodiscard]] Result<std::optional<PageRanges>> changes() override;
  void end_snapshot(SnapshotEnd end) override;
  [[nodiscard]] GuestMemory& memory() override { return board_->memory; }
  [[nodiscard]] Status note_sync_point() override;
  [[nodiscard]] Result<std::shared_ptr<HeldMemory>> hold_memory() override;
  [[nodiscard]] Status check_revert() const override;
  [[nodiscard]] RevertOutcome revert(bool clock_realtime) override;
  void fetch_working_set() override;
  [[nodiscard]] std::vector<std::uint64_t> touched() const override;
  void stop_recording() override;
  [[nodiscard]] Status press_ctrl_alt_del() override;
  [[nodiscard]] BlockDevice& drive(std::string_view id) override;
  [[nodiscard]] NetDevice& network_interface(std::string_view id) override;
  void drain_console(Done written) override;

 private:
  void on_parked();
  [[nodiscard]] Status take_changes();

  std::unique_ptr<Board> board_;
  Done paused_;                         // called when all have parked
  bool frozen_ = true;                  // the guest's time is frozen, as it is before the first resume()
  std::vector<std::uint64_t> changed_;  // a bit a page, since the last snapshot
  std::unique_ptr<LoopTimer> console_timer_;
  Done console_written_;
};

}  // namespace mayfly
