#pragma once

#include "vmm/base/log.h"
#include "vmm/base/metrics.h"
#include "vmm/base/thread_kind.h"
#include "vmm/io/event_loop.h"
#include "vmm/io/loop_timer.h"
#include "vmm/machine/brancher.h"
#include "vmm/machine/command.h"
#include "vmm/machine/configured_machine.h"
#include "vmm/machine/end_deadline.h"
#include "vmm/machine/load.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_end.h"
#include "vmm/machine/metrics_file.h"
#include "vmm/machine/save.h"
#include "vmm/machine/worker.h"

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

/// The machine's life, whoever asks: the API, the configuration file or the command line.
///
///   Controller controller{loop, log, metrics, {.id = "vm-7"}};
///   controller.submit(PutBootSource{...}, std::move(reply));   // any thread; execute() waits
///   loop.run(); return static_cast<int>(controller.end()->reason);
///
/// What takes time is a state, and never waits: the machine is Pausing, Draining, Saving... until a callback says that
/// it is done, and gives the answer then. Meanwhile commands of the kind Read are carried out, others wait for their turn,
/// and an end gets through.
///
///   Not started -> (Loading) -> Running <-> (Pausing) <-> Paused <-> (Draining -> Saving)
///                               Running -> (Pausing -> Draining -> Saving) -> Running: a live snapshot, whose memory is
///                               written while the machine is what it was
///                               Running -> (Pausing -> Draining -> Reverting) -> Running or Paused; so from Paused
///                               Running or Paused -> (Pausing -> Draining -> Branching) -> the same
///                               Running or Paused -> (Recording) or (Looking) -> the same
///                               any of them -> Ending -> gone
///
/// A refused command changes nothing. Files are opened when they are configured, so that errors of a path are reported
/// at once.
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

/// Makes everything that takes KVM or threads; tests have fakes.
struct MachineMakers {
  std::function<Result<PreparedVm>(const ThreadEntry&)> prepare;
  std::function<Result<std::unique_ptr<Machine>>(BootPlan, MachineContext)> boot;
  std::function<Result<std::unique_ptr<Machine>>(RestorePlan, MachineContext)> restore;
  std::unique_ptr<Worker> worker;
  [[nodiscard]] static MachineMakers real(EventLoop& loop);
};

struct ControllerOptions {
  std::string id = "anonymous-instance";
  ProcessStart start{};
  bool boot_timer = false;
  bool live_snapshots = false;   ///< Which takes a wider filter.
  Brancher* brancher = nullptr;  ///< None: the machine has no children.
  /// Bytes of JSON.
  std::size_t metadata_limit = MetadataStore::kDefaultLimit;
  ConsoleOptions console{};  ///< serial_out_path of PUT /serial replaces the output.
  /// Called before each command of a client: what was sent before it counts first, such as a signal to stop.
  std::function<void()> before_command{};
  /// Called by each thread that the machine makes, once it is set up; and by the loop's with running_kind(), once the
  /// machine runs or is loaded: after that request's answer, before the next command.
  ThreadEntry enter_thread{};
  /// Called at the machine's end, and with what the loop's thread is about to wait for; may be empty.
  EndDeadline* deadline = nullptr;
  /// How long a pause or a drain may take.
  std::uint64_t patience_ns = 30'000'000'000;
};

class Controller final : public CommandTarget {
 public:
  Controller(EventLoop& loop, Log& log, Metrics& metrics, ControllerOptions options);
  Controller(EventLoop& loop, Log& log, Metrics& metrics, ControllerOptions options, MachineMakers makers);
  ~Controller() override;

  /// Fails when the machine's life is over before the command is carried out.
  void submit(Command command, Reply reply) override;

  /// Makes ahead what every start or load needs. A host without KVM is an error of the start, not of this.
  void answered() override;
  void refused(std::string_view method, std::string_view why) override;

  // The rest is for the loop's thread.
  /// As submit(), from now on. The caller reports a refusal; submit() logs those of clients.
  void perform(Command command, Reply reply);
  /// A command that takes no time: one that has an apply(). One whose answer would come later aborts.
  [[nodiscard]] Result<Answer> carry_out(Command command);
  /// Of a child: a VM that is being made while the rest of it gets ready, whose first vCPU is shown the parent's CPUID;
  /// without it, branch_off() begins.
  void use(PreparedVm prepared) { prepared_.emplace(std::move(prepared)); }
  /// Of a child, instead of a start or a load: goes on from where its parent was. `order` is the child's own. Errors: what
  /// it has of its own cannot be had; there is no machine then.
  [[nodiscard]] Status branch_off(BranchOrder& order, std::size_t index);
  /// Ends the machine (if it has not ended) and, when it has, stops the loop.
  void finish(MachineEnd end);
  [[nodiscard]] const std::optional<MachineEnd>& end() const noexcept { return end_; }
  /// After the loop's end: answers waiting commands, frees the machine, and writes the last metrics line. May be called
  /// twice.
  void shut_down();
  /// Begins with a machine that runs, as after a start; or after a load, where `loaded` says so. For tests.
  struct Adopted {
    bool revertible = false;
  };
  void adopt(std::unique_ptr<Machine> machine, std::optional<Adopted> loaded = std::nullopt);

 private:
  /// What the machine is on its way to.
  enum class Transition { None, Loading, Pausing, Draining, Saving, Recording, Reverting, Branching, Looking };
  struct Waiting {
    Command command;
    Reply reply;
  };
  /// A snapshot whose files are being written: in a transition, or, where it is live, beside whatever the machine does.
  struct Writing {
    SnapshotCreateParams params;
    std::shared_ptr<WritingProgress> progress;
    std::optional<Reply> reply{};              // of a live one
    std::vector<std::string> frozen_copies{};  // of drives, which are of no use without it
    std::vector<Reply> cancels{};              // who wants it to end
  };
  struct Recording {
    std::string path;
    SnapshotId snapshot;
    bool until_boot_timer;
  };

  void dispatch(Command& command, Reply reply);
  // Commands that are carried out at once
  Result<Answer> apply(const GetInstanceInfo& command);
  Result<Answer> apply(const GetMachineConfig& command);
  Result<Answer> apply(const GetVmConfig& command);
  Result<Answer> apply(const GetMmds& command);
  Result<Answer> apply(const GetSnapshot& command);
  Result<Answer> apply(const GetMemoryMappings& command);
  Result<Answer> apply(PutBootSource& command);
  Result<Answer> apply(const PutMachineConfig& command);
  Result<Answer> apply(const PatchMachineConfig& command);
  Result<Answer> apply(PutCpuConfig& command);
  Result<Answer> apply(PutSerial& command);
  Result<Answer> apply(PutDrive& command);
  Result<Answer> apply(const PatchDrive& command);
  Result<Answer> apply(PutNetworkInterface& command);
  Result<Answer> apply(const PatchNetworkInterface& command);
  Result<Answer> apply(PutMmdsConfig& command);
  Result<Answer> apply(PutChannel& command);
  Result<Answer> apply(PutMmds& command);
  Result<Answer> apply(PatchMmds& command);
  Result<Answer> apply(const PutLogger& command);
  Result<Answer> apply(const PutMetrics& command);
  Result<Answer> apply(const StartInstance& command);
  Result<Answer> apply(const FlushMetrics& command);
  Result<Answer> apply(const SendCtrlAltDel& command);
  Result<Answer> apply(const ResumeVm& command);
  // Commands that take time: each gives its reply when its transition ends
  void begin(const GetPrometheusMetrics& command, Reply reply);
  void give_metrics();
  void begin(const PauseVm& command, Reply reply);
  void begin(CreateSnapshot& command, Reply reply);
  void begin(CreateLiveSnapshot& command, Reply reply);
  void begin(const CancelSnapshot& command, Reply reply);
  void begin(BranchVm& command, Reply reply);
  void begin(LoadSnapshot& command, Reply reply);
  void begin(const RevertSnapshot& command, Reply reply);
  void begin(const FinishWorkingSet& command, Reply reply);
  void begin(const GetMemory& command, Reply reply);
  void begin(const GetDirtyMemory& command, Reply reply);

  /// From here until leave() commands wait; `what` names it for the deadline of an end.
  void enter(Transition transition, const char* what, Reply reply);
  /// The same request's next transition.
  void advance_to(Transition transition, const char* what);
  /// Ends the transition: gives the answer, and carries out waiting commands; or continues the end.
  void leave(Result<Answer> answer);
  /// The same without an answer, which is for the caller to give; go_on() follows.
  [[nodiscard]] Reply leave_unanswered();
  /// After a transition.
  void go_on();
  /// Goes on once the machine has paused or drained, or calls `late` after the patience. Error: no timer.
  [[nodiscard]] Status arm_patience(std::function<void()> late);
  void disarm_patience();
  /// Calls `paused` once the running machine has paused; after the patience the machine runs on, and the request fails.
  void pause_for(std::function<void()> paused);

  void prepare_vm();
  /// Begins to make a VM where none is being made. Errors: no usable KVM.
  [[nodiscard]] Status need_prepared_vm();
  [[nodiscard]] MachineContext context();
  /// The machine has come to life.
  void go_live(MachineState state);
  /// Tells the loop's thread, once.
  void enter_running();
  void log_boot_time() const;

  // Snapshots
  void save_drained(const SnapshotCreateParams& params, std::uint64_t begun_ns);
  /// Ends what stays_drained_ says.
  void stay_drained_no_more();
  /// Frozen drives get back to what they were or, where that counts, go on as it needs. Which are copies.
  [[nodiscard]] std::vector<std::string> end_freezes(const SnapshotCreateParams& params, bool counts);
  /// Of a machine that has gone on: which frozen drives are layers of it for good, to be appended to an error.
  [[nodiscard]] static std::string kept_layers(const SnapshotCreateParams& params,
                                               const std::vector<std::string>& copies);
  void saved(std::uint64_t begun_ns, SnapshotOutcome outcome);
  /// What has become of the snapshot that was written, which no longer is; its answer.
  [[nodiscard]] Status conclude(std::uint64_t begun_ns, SnapshotOutcome outcome);
  /// That no other snapshot is being written.
  [[nodiscard]] Status check_not_writing() const;
  /// The same, and that it can be known which pages are touched.
  [[nodiscard]] Status check_can_save() const;
  [[nodiscard]] Status check_live() const;
  struct Hold {
    SnapshotCreateParams params;
    std::uint64_t begun_ns;
    Snapshot snapshot{};
    Status synced{};
    std::optional<PairPlaces> places{};                  // of a live snapshot that waits for drives
    bool settled = false;                                ///< Frozen drives may have their names.
    std::optional<std::vector<BranchChild>> children{};  // which have memory from here on; else it is held
    const char* not_done = "no live snapshot was taken";
    std::vector<std::string> frozen_copies{};  // that nothing needs where there are no children
  };
  void drain_to_hold(const std::shared_ptr<Hold>& hold);
  void hold_drained(const std::shared_ptr<Hold>& hold);
  [[nodiscard]] Result<std::shared_ptr<CopyBound>> make_bound(const SnapshotCreateParams& params);
  void hold_memory(const std::shared_ptr<Hold>& hold);
  [[nodiscard]] Status sync_and_settle(Hold& hold, const std::optional<DiffBase>& base);
  void refuse_hold(const std::shared_ptr<Hold>& hold, std::unexpected<Error> error);
  void undo_hold(const Hold& hold, std::unexpected<Error> error);
  void live_saved(std::uint64_t begun_ns, SnapshotOutcome outcome);
  // Guest memory, for who reads it from outside
  using Look =
      std::function<Result<Answer>(const GuestMemory& memory, MemoryIs memory_is, const std::stop_token& stop)>;
  void look_at_memory(Look look, Reply reply);
  // Children
  [[nodiscard]] Status check_branch(const BranchParams& params) const;
  [[nodiscard]] Status check_child(const BranchChild& child) const;
  void make_children(const std::shared_ptr<Hold>& hold);
  void branched(const Hold& hold, std::vector<BranchedChild> children);
  [[nodiscard]] Status check_revert() const;
  void drain_to_revert(const SnapshotRevertParams& params, std::uint64_t begun_ns);
  void revert_drained(const SnapshotRevertParams& params, std::uint64_t begun_ns);
  /// Ends the transition of a revert or a live snapshot that has changed nothing: the machine goes on as before.
  void go_on_as_before(std::unexpected<Error> error);
  /// Drains a machine that may have to go on then; after the patience it does, and the error says what was not done.
  void drain_or_go_on(const char* not_done, std::function<void()> drained);
  [[nodiscard]] Status finish_load(Load load, Result<RestoredMemory> memory, std::uint64_t begun_ns);
  [[nodiscard]] Status write_recording(std::function<void(Status)> written);
  /// Ends a recording without a request for that, if there is one; an error is logged.
  void end_recording();

  // The end: vCPUs, working set, console, loop
  void end_vcpus();
  void end_console();

  EventLoop& loop_;
  Log& log_;
  Metrics& metrics_;
  ControllerOptions options_;
  MachineMakers makers_;
  MachineState state_ = MachineState::NotStarted;
  Transition transition_ = Transition::None;
  std::optional<Reply> pending_;  // of the transition
  std::deque<Waiting> waiting_;
  ConfiguredMachine configured_;
  MetricsFile metrics_file_;
  std::optional<PreparedVm> prepared_;
  std::unique_ptr<Machine> machine_;
  std::optional<MachineEnd> end_;
  std::optional<Writing> writing_;
  std::optional<DiffBase> last_snapshot_;      // that was taken or loaded: what a diff is of
  bool loaded_ = false;                        // from a snapshot, not booted
  std::optional<DiffBase> reverts_to_;         // last_snapshot_ as it was after the load, if that can come back
  std::atomic<bool> need_not_prepare_{false};  // what answered() could make is there, or of no use any more
  bool knows_own_pages_ = true;                // /proc/self is this process's
  bool entered_running_ = false;
  // Paused, since a snapshot without a memory file: no device writes to the memory that goes with the state.
  bool stays_drained_ = false;
  bool shut_down_ = false;
  std::vector<Reply> metrics_asked_;  // who waits for pages to be counted
  std::unique_ptr<LoopTimer> patience_timer_;
  std::function<void()> late_;
  std::optional<Recording> recording_;          // of the working set
  std::unique_ptr<LoopTimer> recording_timer_;  // that ends it
  bool recording_is_over_ = false;              // and is to be written when a transition has ended
  LogRate refusals_;                            // a client can cause as many as it likes
};

}  // namespace mayfly
