#pragma once

#include "virtio/mmds/metadata_store.h"
#include "vmm/base/log.h"
#include "vmm/base/metrics.h"
#include "vmm/base/thread_kind.h"
#include "vmm/io/event_loop.h"
#include "vmm/machine/command.h"
#include "vmm/machine/configured_devices.h"
#include "vmm/machine/machine_end.h"
#include "vmm/machine/metrics_sink.h"
#include "vmm/machine/microvm.h"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

/// The machine's life, whoever asks: the API, the configuration file or the command line.
///
///   Controller controller{loop, log, metrics, {.id = "vm-7"}};
///   controller.carry_out(PutBootSource{...});    // on the loop's thread
///   controller.execute(StartInstance{});         // from any other: posts, waits, answers
///   loop.run(); return static_cast<int>(controller.end()->reason);
///
/// A refused command changes nothing. Files are opened when they are configured, so that a path's error is told at
/// once.
namespace mayfly {

/// When this process began, for the boot timer's line; 0 where unknown. Microseconds of CLOCK_MONOTONIC and of CPU
/// time.
struct ProcessStart {
  std::uint64_t wall_us = 0;
  std::uint64_t cpu_us = 0;
  std::uint64_t parent_cpu_us = 0;
};

/// What has passed since a process began: nothing, where its caller was wrong about that. Microseconds.
struct ProcessTimes {
  std::uint64_t wall_us = 0;
  std::uint64_t cpu_us = 0;
};
[[nodiscard]] ProcessTimes times_since(const ProcessStart& start) noexcept;

struct ControllerOptions {
  std::string id = "anonymous-instance";
  ProcessStart start{};
  bool boot_timer = false;
  /// Bytes of JSON.
  std::size_t metadata_limit = MetadataStore::kDefaultLimit;
  ConsoleOptions console{};  ///< serial_out_path of PUT /serial replaces the output.
  /// Called before each command of a client: what was sent before it counts first, such as a signal to stop.
  std::function<void()> before_command{};
  /// Called by each thread that the machine makes, once it is set up; and by the loop's with ThreadKind::Running, once
  /// the machine runs or is loaded: after that request's answer, before the next command.
  ThreadEntry enter_thread{};
};

class Controller final : public CommandTarget {
 public:
  Controller(EventLoop& loop, Log& log, Metrics& metrics, ControllerOptions options);
  ~Controller() override;

  /// Fails when the machine's life is over before the command is carried out.
  void submit(Command command, Reply reply) override;

  /// Makes ahead what every start or load needs; a host without KVM is told then, not here.
  void answered() override;
  void refused(std::string_view method, std::string_view why) override;

  // The rest is for the loop's thread.
  /// A refusal is the caller's to tell; submit() logs those of clients.
  [[nodiscard]] Result<Answer> carry_out(Command command);
  /// Ends the machine (if it has not ended) and stops the loop.
  void finish(MachineEnd end);
  [[nodiscard]] const std::optional<MachineEnd>& end() const noexcept { return end_; }
  /// Frees the machine, and writes the last metrics line.
  void shut_down();

 private:
  void prepare_shell();
  /// Makes a shell where there is none. Errors: no usable KVM.
  [[nodiscard]] Status need_shell();
  [[nodiscard]] MachineShell take_shell();
  struct OpenFiles {
    OwnedFd kernel;
    OwnedFd initrd;
  };

  /// The machine has come to life.
  void go_live(MachineState state);
  /// Tells the loop's thread, once.
  void enter_running();

  Result<Answer> dispatch(Command& command);
  Result<Answer> apply(GetInstanceInfo& command);
  Result<Answer> apply(GetMachineConfig& command);
  Result<Answer> apply(GetVmConfig& command);
  Result<Answer> apply(GetPrometheusMetrics& command);
  Result<Answer> apply(GetMmds& command);
  Result<Answer> apply(PutBootSource& command);
  Result<Answer> apply(PutMachineConfig& command);
  Result<Answer> apply(PatchMachineConfig& command);
  Result<Answer> apply(PutCpuConfig& command);
  Result<Answer> apply(PutSerial& command);
  Result<Answer> apply(PutDrive& command);
  Result<Answer> apply(PatchDrive& command);
  Result<Answer> apply(PutNetworkInterface& command);
  Result<Answer> apply(PatchNetworkInterface& command);
  Result<Answer> apply(PutMmdsConfig& command);
  Result<Answer> apply(PutMmds& command);
  Result<Answer> apply(PatchMmds& command);
  Result<Answer> apply(PutLogger& command);
  Result<Answer> apply(PutMetrics& command);
  Result<Answer> apply(StartInstance& command);
  Result<Answer> apply(FlushMetrics& command);
  Result<Answer> apply(SendCtrlAltDel& command);
  Result<Answer> apply(FinishWorkingSet& command);
  Result<Answer> apply(PauseVm& command);
  Result<Answer> apply(ResumeVm& command);
  Result<Answer> apply(CreateSnapshot& command);
  Result<Answer> apply(LoadSnapshot& command);
  /// Writes the pair of files, with the devices at rest.
  Status write_snapshot(Snapshot snapshot, GuestMemory& memory, const SnapshotCreateParams& params);
  Result<RestorePlan> plan_restore(const SnapshotLoadParams& params, ConfiguredDevices& devices);
  /// Writes what was recorded. After an error the recording goes on.
  Status finish_recording();
  /// The same where nobody asked for it, if there is one: an error is logged.
  void end_recording();
  [[nodiscard]] ConsoleOptions console_options() const;
  [[nodiscard]] MicrovmContext context();
  Result<MicrovmPlan> plan_start();
  void log_boot_time() const;
  void warn_of_template();
  /// Brings what the log has counted into the metrics.
  void note_missed_log_lines();
  [[nodiscard]] Status flush_metrics();

  EventLoop& loop_;
  Log& log_;
  Metrics& metrics_;
  ControllerOptions options_;
  MachineState state_ = MachineState::NotStarted;
  VmConfig config_;
  OpenFiles files_;
  ConfiguredDevices devices_;
  MetadataStore metadata_;
  OwnedFd serial_out_;
  std::optional<MetricsSink> metrics_sink_;
  std::unique_ptr<LoopTimer> metrics_timer_;
  std::optional<MachineShell> shell_;
  std::unique_ptr<Microvm> microvm_;
  std::optional<MachineEnd> end_;
  std::optional<SnapshotId> last_snapshot_;  // that was taken or loaded: what a diff is of
  bool took_last_snapshot_ = false;          // here
  std::atomic<bool> prepared_{false};        // what answered() could make is there, or of no use any more
  bool machine_configured_ = false;          // by a request; a snapshot brings its own
  bool entered_running_ = false;
  struct Recording {
    std::string path;
    SnapshotId snapshot;
    bool until_boot_timer;
  };
  std::optional<Recording> recording_;          // of the working set
  std::unique_ptr<LoopTimer> recording_timer_;  // that ends it
  LogRate refusals_;                            // a client can cause as many as it likes
};

}  // namespace mayfly
