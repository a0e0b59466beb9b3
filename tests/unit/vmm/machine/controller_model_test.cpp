#include "tests/support/child_process.h"
#include "tests/support/repeats.h"
#include "tests/support/run_until.h"
#include "tests/unit/virtio/block/block_fixture.h"
#include "vmm/machine/controller.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <random>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// A machine without KVM, whose every wait ends when the test says so.
class FakeMachine final : public Machine {
 public:
  struct State {
    Done paused, drained, console;
    bool running = false, drains = false, save_fails = false;
    int saves = 0, reverts = 0;
    bool cannot_revert = false, is_layered = false, hold_fails = false, is_tracked = false;
    int holds = 0, forgotten = 0, changes_taken = 0;
    Snapshot saved{};
    RevertOutcome reverted{};       // what the next one comes to
    BlockDevice* frozen = nullptr;  // the drive that snapshots freeze
  };
  explicit FakeMachine(State& state) : state_(state) {}
  void pause(Done paused) override { state_.paused = std::move(paused); }
  void resume() override {
    state_.paused = nullptr;
    state_.running = true;
  }
  void drain(Done drained) override {
    state_.drains = true;
    state_.drained = std::move(drained);
  }
  void undrain() override {
    state_.drains = false;
    state_.drained = nullptr;
  }
  [[nodiscard]] std::string undrained() const override { return "drive rootfs"; }
  [[nodiscard]] Result<Snapshot> save() override {
    ++state_.saves;
    if (state_.save_fails) return fail(ErrorKind::Kvm, "KVM_GET_REGS failed");
    return state_.saved;
  }
  [[nodiscard]] Status sync_drives(Snapshot& /*snapshot*/, DriveSync /*which*/) override {
    return state_.frozen != nullptr ? state_.frozen->sync() : Status{};
  }
  [[nodiscard]] bool writes_to_drives() const override { return state_.is_layered; }
  void hold_back(bool on) override { EXPECT_FALSE(on) << "no snapshot of these is bounded"; }
  [[nodiscard]] Status note_sync_point() override { return {}; }
  [[nodiscard]] Result<std::shared_ptr<HeldMemory>> hold_memory() override {
    EXPECT_TRUE(state_.drains) << "it is drained when its memory is held";
    ++state_.holds;
    if (state_.hold_fails) return fail(ErrorKind::System, "the host gives no process");
    return nullptr;  // nobody looks into it
  }
  [[nodiscard]] Result<std::optional<PageRanges>> changes() override {
    ++state_.changes_taken;
    if (state_.is_tracked) return PageRanges{};
    return std::nullopt;
  }
  void end_snapshot(SnapshotEnd end) override { state_.forgotten += end == SnapshotEnd::Whole ? 1 : 0; }
  [[nodiscard]] Status check_revert() const override {
    if (state_.cannot_revert) return fail(ErrorKind::State, "drive rootfs cannot go back");
    return {};
  }
  [[nodiscard]] RevertOutcome revert(bool /*clock_realtime*/) override {
    EXPECT_TRUE(state_.drains) << "it is drained when it is reverted";
    if (state_.reverted.status) {
      ++state_.reverts;
      state_.drains = false;  // its devices are at work
    }
    return state_.reverted;
  }
  [[nodiscard]] GuestMemory& memory() override {
    static GuestMemory one = GuestMemory::create({.size_mib = 1}).value();  // nobody looks into it
    return one;
  }
  void fetch_working_set() override {}
  [[nodiscard]] std::vector<std::uint64_t> touched() const override { return {}; }
  void stop_recording() override {}
  [[nodiscard]] Status press_ctrl_alt_del() override { return {}; }
  [[nodiscard]] BlockDevice& drive(std::string_view /*id*/) override { return *state_.frozen; }
  [[nodiscard]] NetDevice& network_interface(std::string_view /*id*/) override { std::abort(); }
  void drain_console(Done written) override { state_.console = std::move(written); }

 private:
  State& state_;
};

/// A worker whose job is done when the test says so. (A snapshot of a machine without vCPUs is refused.)
class FakeWorker final : public Worker {
 public:
  struct State {
    Job job;
    Done done;
    bool stopped = false, refuses = false;
  };
  explicit FakeWorker(State& state) : state_(state) {}
  [[nodiscard]] Status begin(Job job, Done done) override {
    if (state_.refuses) return fail(ErrorKind::System, "the host gives no more threads");
    state_.job = std::move(job);
    state_.done = std::move(done);
    return {};
  }
  void stop() noexcept override { state_.stopped = true; }

 private:
  State& state_;
};

class ControllerModel : public ::testing::Test {
 protected:
  ControllerModel() { make(); }
  ~ControllerModel() override { loop_->close(); }

  void renew_loop() {
    if (loop_) loop_->close();
    controller_.reset();
    auto loop = EventLoop::create();
    if (!loop) std::abort();
    loop_ = std::move(*loop);
  }
  /// In place of the machine that make() has given it.
  void adopt_revertible() {
    controller_->adopt(std::make_unique<FakeMachine>(machine_), Controller::Adopted{.revertible = true});
  }
  void make() {
    // What a controller that went has left in the ring makes each cancellation dearer.
    constexpr int kMachinesPerLoop = 50;
    if (made_++ % kMachinesPerLoop == 0) renew_loop();
    controller_.reset();
    machine_ = {};
    worker_ = {};
    ControllerOptions options{.id = "model", .live_snapshots = true};
    options.patience_ns = 3'600'000'000'000;
    controller_.emplace(*loop_, log_, metrics_, std::move(options),
                        MachineMakers{.prepare = [](const ThreadEntry&) -> Result<PreparedVm> {
                                        return fail(ErrorKind::Kvm, "no KVM here");
                                      },
                                      .boot = {},
                                      .restore = {},
                                      .worker = std::make_unique<FakeWorker>(worker_)});
    controller_->adopt(std::make_unique<FakeMachine>(machine_));
    machine_.running = true;
  }
  /// What a command is answered, as soon as it is.
  struct Asked {
    std::optional<bool> ok{};
    std::string why{};
  };
  std::shared_ptr<Asked> ask(Command command) {
    auto asked = std::make_shared<Asked>();
    controller_->perform(std::move(command), Reply{[asked](const Result<Answer>& answer) {
                           ASSERT_FALSE(asked->ok) << "answered twice";
                           asked->ok = answer.has_value();
                           if (!answer) asked->why = answer.error().message;
                         }});
    return asked;
  }
  /// A controller whose machine came from a snapshot, and may go back; or not.
  void make_loaded(bool revertible = true, std::uint64_t patience_ns = 3'600'000'000'000) {
    controller_.reset();
    machine_ = {};
    ControllerOptions options{.id = "model"};
    options.patience_ns = patience_ns;
    options.enter_thread = [this](ThreadKind kind) { entered_ = kind; };
    controller_.emplace(
        *loop_, log_, metrics_, std::move(options),
        MachineMakers{.prepare = {}, .boot = {}, .restore = {}, .worker = std::make_unique<FakeWorker>(worker_)});
    controller_->adopt(std::make_unique<FakeMachine>(machine_), Controller::Adopted{.revertible = revertible});
    machine_.running = true;
  }
  static Command revert(bool resume) {
    RevertSnapshot command;
    command.value.resume_vm = resume;
    return command;
  }
  [[nodiscard]] MachineState state() {
    return std::get<InstanceInfo>(*controller_->carry_out(GetInstanceInfo{})).state;
  }
  Command snapshot() {
    CreateSnapshot command;
    command.value.snapshot_path = scratch_.file("state");
    command.value.mem_file_path = scratch_.file("memory");
    return command;
  }
  Command live_snapshot() {
    CreateLiveSnapshot command;
    command.value.snapshot_path = scratch_.file("state");
    command.value.mem_file_path = scratch_.file("memory");
    command.value.live = true;
    return command;
  }
  [[nodiscard]] SnapshotStatus status() { return std::get<SnapshotStatus>(*controller_->carry_out(GetSnapshot{})); }
  static bool come(Machine::Done& done) {
    if (!done) return false;
    std::exchange(done, nullptr)();
    return true;
  }
  bool come_worker() {
    if (!worker_.done) return false;
    worker_.job(std::stop_token{});
    std::exchange(worker_.done, nullptr)();
    return true;
  }

  int made_ = 0;
  testing::ScratchDirectory scratch_;
  std::unique_ptr<EventLoop> loop_;
  Log log_{"unit"};
  Metrics metrics_;
  FakeMachine::State machine_;
  FakeWorker::State worker_;
  std::optional<ThreadKind> entered_{};
  std::optional<Controller> controller_;
};

TEST_F(ControllerModel, ReadsAreAnsweredAndChangesWaitWhileAMachinePauses) {
  const auto paused = ask(PauseVm{});
  EXPECT_FALSE(paused->ok);
  EXPECT_EQ(ask(GetInstanceInfo{})->ok, true);
  EXPECT_EQ(ask(GetPrometheusMetrics{})->ok, true);
  const auto resumed = ask(ResumeVm{});
  EXPECT_FALSE(resumed->ok);
  ASSERT_TRUE(come(machine_.paused));
  EXPECT_EQ(paused->ok, true);
  EXPECT_EQ(resumed->ok, true);
}

TEST_F(ControllerModel, ASnapshotHoldsNoReadsAndLeavesTheDevicesGoingOn) {
  (void)ask(PauseVm{});
  ASSERT_TRUE(come(machine_.paused));
  const auto taken = ask(snapshot());
  EXPECT_EQ(ask(GetVmConfig{})->ok, true);
  ASSERT_TRUE(come(machine_.drained));
  EXPECT_EQ(ask(GetMmds{})->ok, true);
  EXPECT_FALSE(taken->ok);
  ASSERT_TRUE(come_worker());
  EXPECT_TRUE(taken->ok.has_value());
  EXPECT_FALSE(machine_.drains);
}

TEST_F(ControllerModel, WhatFailsInASnapshotUndrainsTheDevices) {
  (void)ask(PauseVm{});
  ASSERT_TRUE(come(machine_.paused));
  machine_.save_fails = true;
  auto taken = ask(snapshot());
  ASSERT_TRUE(come(machine_.drained));
  EXPECT_EQ(taken->why, "KVM_GET_REGS failed");
  EXPECT_FALSE(machine_.drains);
  machine_.save_fails = false;
  worker_.refuses = true;
  taken = ask(snapshot());
  ASSERT_TRUE(come(machine_.drained));
  EXPECT_EQ(taken->why, "the host gives no more threads");
  EXPECT_FALSE(machine_.drains);
  EXPECT_EQ(ask(ResumeVm{})->ok, true);
}

TEST_F(ControllerModel, AnEndStopsASnapshotAndGoesOnWhenItHasStopped) {
  (void)ask(PauseVm{});
  ASSERT_TRUE(come(machine_.paused));
  const auto taken = ask(snapshot());
  const auto waits = ask(ResumeVm{});
  ASSERT_TRUE(come(machine_.drained));
  controller_->finish({EndReason::Terminated, "told to stop"});
  EXPECT_TRUE(worker_.stopped);
  EXPECT_NE(waits->why.find("has ended"), std::string::npos);
  EXPECT_FALSE(machine_.paused) << "the vCPUs' turn comes when the files are done with";
  ASSERT_TRUE(come_worker());
  EXPECT_TRUE(taken->ok.has_value());
  ASSERT_TRUE(come(machine_.paused));
  EXPECT_TRUE(come(machine_.console));
  EXPECT_TRUE(loop_->run());
}

TEST_F(ControllerModel, AnEndWhileDevicesDrainTakesNoSnapshot) {
  (void)ask(PauseVm{});
  ASSERT_TRUE(come(machine_.paused));
  const auto taken = ask(snapshot());
  controller_->finish({EndReason::Terminated, "told to stop"});
  EXPECT_EQ(taken->ok, false);
  EXPECT_FALSE(come(machine_.drained)) << "the last request comes back while the console drains";
  EXPECT_EQ(machine_.saves, 0);
  ASSERT_TRUE(come(machine_.paused));
  ASSERT_TRUE(come(machine_.console));
  EXPECT_TRUE(loop_->run());
}

TEST_F(ControllerModel, GuestMemoryIsLookedAtInItsTurn) {
  EXPECT_NE(ask(GetDirtyMemory{})->why, "") << "while it runs, what is said is old at once";
  const auto looked = ask(GetMemory{});
  EXPECT_FALSE(looked->ok) << "it takes time";
  EXPECT_EQ(ask(GetMemoryMappings{})->ok, true);
  const auto paused = ask(PauseVm{});
  EXPECT_FALSE(machine_.paused) << "a pause waits for its turn";
  ASSERT_TRUE(come_worker());
  EXPECT_EQ(looked->ok, true);
  ASSERT_TRUE(come(machine_.paused));
  EXPECT_EQ(paused->ok, true);
  const auto dirty = ask(GetDirtyMemory{});
  ASSERT_TRUE(come_worker());
  EXPECT_EQ(dirty->ok, true);
}

TEST_F(ControllerModel, AnEndStopsALookAtMemory) {
  const auto looked = ask(GetMemory{});
  controller_->finish({EndReason::Terminated, "told to stop"});
  EXPECT_TRUE(worker_.stopped);
  EXPECT_FALSE(machine_.paused) << "the vCPUs' turn comes when nobody looks at memory any more";
  ASSERT_TRUE(come_worker());
  EXPECT_EQ(looked->why, "the machine has ended");
  ASSERT_TRUE(come(machine_.paused));
  ASSERT_TRUE(come(machine_.console));
  EXPECT_TRUE(loop_->run());
}

/// A snapshot whose memory is read from outside, once it has been written.
class StateAlone : public ControllerModel {
 protected:
  void take() {
    (void)ask(PauseVm{});
    ASSERT_TRUE(come(machine_.paused));
    CreateSnapshot command;
    command.value.snapshot_path = scratch_.file("state");
    machine_.saved.vcpus.resize(1);
    const auto taken = ask(std::move(command));
    ASSERT_TRUE(come(machine_.drained));
    ASSERT_TRUE(come_worker());
    ASSERT_EQ(taken->ok, true) << taken->why;
    EXPECT_TRUE(machine_.drains) << "no device writes to the memory that goes with the state";
  }
};

TEST_F(StateAlone, KeepsTheMemoryAsItIsUntilTheNextChange) {
  take();
  const auto looked = ask(GetMemory{});
  ASSERT_TRUE(come_worker());
  EXPECT_EQ(looked->ok, true);
  EXPECT_EQ(ask(GetMemoryMappings{})->ok, true);
  EXPECT_TRUE(machine_.drains);
  EXPECT_EQ(machine_.forgotten, 0) << "what has changed since the last memory file still has";
  EXPECT_EQ(ask(ResumeVm{})->ok, true);
  EXPECT_FALSE(machine_.drains);
}

TEST_F(StateAlone, AnEndUndrainsTheDevices) {
  take();
  controller_->finish({EndReason::Terminated, "told to stop"});
  EXPECT_FALSE(machine_.drains);
  ASSERT_TRUE(come(machine_.paused));
  ASSERT_TRUE(come(machine_.console));
  EXPECT_TRUE(loop_->run());
}

TEST_F(ControllerModel, ALiveSnapshotStandsStillAndGoesOnAsItWas) {
  for (const bool running : {true, false}) {
    make();
    if (!running) {
      (void)ask(PauseVm{});
      ASSERT_TRUE(come(machine_.paused));
    }
    machine_.running = false;
    const auto taken = ask(live_snapshot());
    EXPECT_FALSE(status().is_written);
    EXPECT_EQ(come(machine_.paused), running);
    const auto waits = ask(PutMmds{JsonValue{JsonValue::Object{}}});
    EXPECT_FALSE(waits->ok);
    ASSERT_TRUE(come(machine_.drained));
    EXPECT_EQ(machine_.holds, 1);
    EXPECT_EQ(machine_.running, running) << "it goes on before anything is written";
    EXPECT_FALSE(machine_.drains);
    EXPECT_EQ(waits->ok, true);
    EXPECT_FALSE(taken->ok);
    EXPECT_TRUE(status().is_written);
    EXPECT_EQ(status().snapshot_path, scratch_.file("state"));
    for (Command refused : {live_snapshot(), Command{RevertSnapshot{}}})
      EXPECT_NE(ask(std::move(refused))->why, "") << "one at a time";
    ASSERT_TRUE(come_worker());
    EXPECT_TRUE(taken->ok.has_value());
    EXPECT_FALSE(status().is_written);
    EXPECT_EQ(state(), running ? MachineState::Running : MachineState::Paused);
  }
}

/// What is taken from the logs then would be forgotten with what the snapshot has written.
TEST_F(ControllerModel, DirtyMemoryIsNotTakenWhileALiveSnapshotIsWritten) {
  for (const bool after_another : {true, false}) {
    make();
    if (after_another) adopt_revertible();
    machine_.is_tracked = true;
    const auto taken = ask(live_snapshot());
    ASSERT_TRUE(come(machine_.paused));
    ASSERT_TRUE(come(machine_.drained));
    (void)ask(PauseVm{});
    ASSERT_TRUE(come(machine_.paused));
    const int before = machine_.changes_taken;
    EXPECT_NE(ask(GetDirtyMemory{})->why.find("a live snapshot is being written"), std::string::npos);
    EXPECT_EQ(machine_.changes_taken, before);
    ASSERT_TRUE(come_worker());
    EXPECT_TRUE(taken->ok.has_value());
    const auto dirty = ask(GetDirtyMemory{});
    if (!after_another) {
      ASSERT_TRUE(come_worker());
    }
    EXPECT_EQ(dirty->ok, true) << dirty->why;
  }
}

TEST_F(ControllerModel, OverlaysAreSyncedByAWorkerWhileALiveSnapshotStandsStill) {
  machine_.is_layered = true;
  machine_.running = false;
  const auto taken = ask(live_snapshot());
  ASSERT_TRUE(come(machine_.paused));
  ASSERT_TRUE(come(machine_.drained));
  EXPECT_EQ(machine_.holds, 0) << "the drives come first";
  EXPECT_FALSE(machine_.running);
  ASSERT_TRUE(come_worker());
  EXPECT_EQ(machine_.holds, 1);
  EXPECT_TRUE(machine_.running);
  EXPECT_FALSE(taken->ok);
  ASSERT_TRUE(come_worker());
  EXPECT_TRUE(taken->ok.has_value());
}

TEST_F(ControllerModel, WhatFailsInALiveSnapshotHasTheMachineGoOn) {
  struct Case {
    bool save, hold, worker;
    const char* why;
  };
  for (const auto& [save, hold, worker, why] :
       {Case{true, false, false, "KVM_GET_REGS failed"}, Case{false, true, false, "the host gives no process"},
        Case{false, false, true, "the host gives no more threads"}}) {
    machine_.save_fails = save;
    machine_.hold_fails = hold;
    worker_.refuses = worker;
    machine_.running = false;
    const auto taken = ask(live_snapshot());
    ASSERT_TRUE(come(machine_.paused));
    ASSERT_TRUE(come(machine_.drained));
    EXPECT_EQ(taken->why, why);
    EXPECT_TRUE(machine_.running);
    EXPECT_FALSE(machine_.drains);
    EXPECT_FALSE(status().is_written);
    EXPECT_EQ(state(), MachineState::Running);
  }
}

TEST_F(ControllerModel, ALiveSnapshotThatCannotBeWrittenNamesTheLayersThatItHasMade) {
  testing::BlockFixture drive{{.layered = true}};
  controller_.emplace(
      *loop_, log_, metrics_, ControllerOptions{.id = "model", .live_snapshots = true},
      MachineMakers{.prepare = {}, .boot = {}, .restore = {}, .worker = std::make_unique<FakeWorker>(worker_)});
  PutDrive configured;
  configured.value.drive_id = "rootfs";
  configured.value.path_on_host = drive.config.base_paths.front();
  configured.value.is_read_only = true;
  ASSERT_EQ(ask(std::move(configured))->ok, true);
  controller_->adopt(std::make_unique<FakeMachine>(machine_));
  machine_.frozen = drive.device.get();
  machine_.saved.drives.push_back({.config = drive.config});
  const std::string layer = drive.scratch.file("layer");
  auto command = std::get<CreateLiveSnapshot>(live_snapshot());
  command.value.frozen_drives = {{.drive_id = "rootfs", .path_on_host = layer}};
  const auto taken = ask(std::move(command));
  ASSERT_TRUE(come(machine_.paused));
  ASSERT_TRUE(come(machine_.drained));
  worker_.job(std::stop_token{});
  worker_.refuses = true;  // the one that writes
  std::exchange(worker_.done, nullptr)();
  EXPECT_EQ(taken->why,
            "the host gives no more threads; keep " + layer + ": it is a layer of the machine's drive rootfs now");
  EXPECT_TRUE(machine_.running);
  EXPECT_FALSE(status().is_written);
}

TEST_F(ControllerModel, ALiveSnapshotNeedsAProcessThatMayTakeIt) {
  make_loaded();
  const auto refused = ask(live_snapshot());
  EXPECT_NE(refused->why.find("without --live-snapshots"), std::string::npos) << refused->why;
  EXPECT_FALSE(machine_.paused) << "it was not even asked to pause";
}

TEST_F(ControllerModel, AnEndGetsThroughALiveSnapshotAndWaitsForItsWriter) {
  const auto taken = ask(live_snapshot());
  ASSERT_TRUE(come(machine_.paused));
  ASSERT_TRUE(come(machine_.drained));
  const auto cancel = ask(CancelSnapshot{});
  controller_->finish({EndReason::Terminated, "told to stop"});
  EXPECT_TRUE(worker_.stopped);
  ASSERT_TRUE(come(machine_.paused)) << "the guest is to stop";
  EXPECT_FALSE(machine_.console) << "what follows comes when the files are done with";
  ASSERT_TRUE(come_worker());
  EXPECT_EQ(taken->ok, false);
  EXPECT_EQ(cancel->ok, true);
  ASSERT_TRUE(come(machine_.paused));
  EXPECT_TRUE(come(machine_.console));
  EXPECT_TRUE(loop_->run());
}

TEST_F(ControllerModel, AnEndForgetsAPauseThatWasAskedForWhileALiveSnapshotIsWritten) {
  const auto taken = ask(live_snapshot());
  ASSERT_TRUE(come(machine_.paused));
  ASSERT_TRUE(come(machine_.drained));
  const auto paused = ask(PauseVm{});
  controller_->finish({EndReason::Terminated, "told to stop"});
  EXPECT_EQ(paused->ok, false);
  ASSERT_TRUE(come(machine_.paused)) << "the vCPUs park before the files are done with";
  ASSERT_TRUE(come_worker());
  EXPECT_EQ(taken->ok, false);
  ASSERT_TRUE(come(machine_.paused));
  EXPECT_TRUE(come(machine_.console));
  EXPECT_TRUE(loop_->run());
}

TEST_F(ControllerModel, ACancelledSnapshotIsStoppedAndBothAreToldWhenItHasEnded) {
  EXPECT_NE(ask(CancelSnapshot{})->why.find("no snapshot is being written"), std::string::npos);
  for (const bool live : {true, false}) {
    make();
    if (!live) (void)ask(PauseVm{});
    if (!live) {
      ASSERT_TRUE(come(machine_.paused));
    }
    const auto taken = ask(live ? live_snapshot() : snapshot());
    EXPECT_EQ(come(machine_.paused), live);
    ASSERT_TRUE(come(machine_.drained));
    const auto cancel = ask(CancelSnapshot{});
    EXPECT_TRUE(worker_.stopped);
    EXPECT_FALSE(cancel->ok);
    ASSERT_TRUE(come_worker());
    EXPECT_EQ(cancel->ok, true);
    EXPECT_NE(taken->why.find("was cancelled (DELETE /snapshot)"), std::string::npos) << taken->why;
  }
}

TEST_F(ControllerModel, ALiveSnapshotWhoseDevicesDoNotDrainIsRefused) {
  ControllerOptions options{.id = "model", .live_snapshots = true};
  options.patience_ns = 1'000'000;
  controller_.emplace(
      *loop_, log_, metrics_, std::move(options),
      MachineMakers{.prepare = {}, .boot = {}, .restore = {}, .worker = std::make_unique<FakeWorker>(worker_)});
  controller_->adopt(std::make_unique<FakeMachine>(machine_));
  const auto taken = ask(live_snapshot());
  machine_.running = false;
  ASSERT_TRUE(come(machine_.paused));
  testing::run_until(*loop_, [&] { return taken->ok.has_value(); });
  EXPECT_NE(taken->why.find("no live snapshot was taken: the requests of drive rootfs did not come back"),
            std::string::npos)
      << taken->why;
  EXPECT_TRUE(machine_.running);
  EXPECT_FALSE(machine_.drains);
}

TEST_F(ControllerModel, APauseThatTakesTooLongIsUndone) {
  ControllerOptions options{.id = "model"};
  options.patience_ns = 1;
  controller_.emplace(
      *loop_, log_, metrics_, std::move(options),
      MachineMakers{.prepare = {}, .boot = {}, .restore = {}, .worker = std::make_unique<FakeWorker>(worker_)});
  controller_->adopt(std::make_unique<FakeMachine>(machine_));
  machine_.running = false;
  const auto paused = ask(PauseVm{});
  testing::run_until(*loop_, [&] { return paused->ok.has_value(); });
  EXPECT_NE(paused->why.find("was not paused"), std::string::npos) << paused->why;
  EXPECT_TRUE(machine_.running);
  EXPECT_EQ(std::get<InstanceInfo>(*controller_->carry_out(GetInstanceInfo{})).state, MachineState::Running);
}

TEST_F(ControllerModel, ARevertPausesDrainsAndGoesOnAsItIsAsked) {
  for (const bool resume : {true, false}) {
    make_loaded();
    const auto reverted = ask(revert(resume));
    EXPECT_EQ(ask(GetInstanceInfo{})->ok, true);
    const auto waits = ask(PauseVm{});
    EXPECT_FALSE(waits->ok);
    machine_.running = false;  // parked
    ASSERT_TRUE(come(machine_.paused));
    EXPECT_FALSE(reverted->ok);
    ASSERT_TRUE(come(machine_.drained));
    EXPECT_EQ(reverted->ok, true);
    EXPECT_EQ(machine_.reverts, 1);
    EXPECT_EQ(machine_.running, resume);
    EXPECT_EQ(state(), resume ? MachineState::Running : MachineState::Paused);
    EXPECT_EQ(waits->ok.has_value(), !resume) << "it is paused, or being paused";
    EXPECT_EQ(come(machine_.paused), resume);
    EXPECT_EQ(waits->ok, true);
  }
  EXPECT_EQ(metrics_.snapshot.revert_count.value(), 2U);
}

TEST_F(ControllerModel, ARevertOfAPausedMachineDrainsAtOnce) {
  make_loaded();
  (void)ask(PauseVm{});
  machine_.running = false;
  ASSERT_TRUE(come(machine_.paused));
  const auto reverted = ask(revert(true));
  ASSERT_TRUE(come(machine_.drained));
  EXPECT_EQ(reverted->ok, true);
  EXPECT_TRUE(machine_.running);
}

TEST_F(ControllerModel, ARevertThatIsRefusedChangesNothing) {
  const auto booted = ask(revert(true));
  EXPECT_NE(booted->why.find("was booted"), std::string::npos) << booted->why;
  make_loaded();
  machine_.cannot_revert = true;
  EXPECT_EQ(ask(revert(true))->why, "drive rootfs cannot go back");
  EXPECT_FALSE(machine_.paused) << "it was not even asked to pause";
  machine_.cannot_revert = false;
  for (const bool paused : {false, true}) {
    machine_.reverted = {.status = fail(ErrorKind::State, "KVM has an interrupt")};
    if (paused) (void)ask(PauseVm{});
    const auto refused = ask(revert(false));
    machine_.running = false;
    ASSERT_TRUE(come(machine_.paused));
    if (paused) {
      ASSERT_TRUE(machine_.drained) << "the revert had waited for the pause";
    }
    ASSERT_TRUE(come(machine_.drained));
    EXPECT_EQ(refused->why, "KVM has an interrupt");
    EXPECT_FALSE(machine_.drains);
    EXPECT_EQ(machine_.running, !paused);
    EXPECT_EQ(state(), paused ? MachineState::Paused : MachineState::Running);
  }
  EXPECT_EQ(machine_.reverts, 0);
  EXPECT_FALSE(controller_->end());
}

TEST_F(ControllerModel, AHalfRevertedMachineEndsAndItsClientIsTold) {
  make_loaded();
  machine_.reverted = {.status = fail(ErrorKind::Kvm, "KVM_SET_REGS of vCPU 0 failed"), .is_half_done = true};
  const auto reverted = ask(revert(true));
  const auto waits = ask(ResumeVm{});
  ASSERT_TRUE(come(machine_.paused));
  machine_.running = false;
  ASSERT_TRUE(come(machine_.drained));
  EXPECT_NE(reverted->why.find("half reverted"), std::string::npos) << reverted->why;
  EXPECT_NE(reverted->why.find("KVM_SET_REGS of vCPU 0 failed"), std::string::npos) << reverted->why;
  EXPECT_NE(waits->why.find("has ended"), std::string::npos);
  EXPECT_FALSE(machine_.running);
  ASSERT_TRUE(controller_->end());
  EXPECT_EQ(controller_->end()->reason, EndReason::HalfReverted);
  ASSERT_TRUE(come(machine_.paused)) << "the end goes its way";
  ASSERT_TRUE(come(machine_.console));
  EXPECT_TRUE(loop_->run());
}

TEST_F(ControllerModel, AnEndGetsThroughARevert) {
  for (const bool drains : {false, true}) {
    make_loaded();
    const auto reverted = ask(revert(true));
    if (drains) {
      ASSERT_TRUE(come(machine_.paused));
    }
    controller_->finish({EndReason::Terminated, "told to stop"});
    EXPECT_EQ(reverted->ok, false);
    EXPECT_FALSE(machine_.drains);
    EXPECT_FALSE(come(machine_.drained));
    EXPECT_EQ(machine_.reverts, 0);
    ASSERT_TRUE(come(machine_.paused));
    ASSERT_TRUE(come(machine_.console));
    EXPECT_TRUE(loop_->run());
    renew_loop();
  }
}

TEST_F(ControllerModel, ARevertThatTakesTooLongIsUndone) {
  for (const bool drains : {false, true}) {
    make_loaded(true, 1'000'000);
    const auto reverted = ask(revert(true));
    if (drains) {
      machine_.running = false;
      ASSERT_TRUE(come(machine_.paused));
    }
    testing::run_until(*loop_, [&] { return reverted->ok.has_value(); });
    EXPECT_NE(reverted->why.find(drains ? "the requests of drive rootfs did not come back" : "was not paused"),
              std::string::npos)
        << reverted->why;
    EXPECT_TRUE(machine_.running);
    EXPECT_FALSE(machine_.drains);
    EXPECT_EQ(state(), MachineState::Running);
    EXPECT_EQ(machine_.reverts, 0);
  }
}

TEST_F(ControllerModel, TheLoopsThreadKeepsTheCallsOfARevertWhereThereMayBeOne) {
  for (const bool revertible : {true, false}) {
    make_loaded(revertible);
    (void)ask(ResumeVm{});
    EXPECT_EQ(entered_, revertible ? ThreadKind::Revertible : ThreadKind::Running);
  }
}

/// Which commands are legal when, and which wait: the plain model that the controller is held against.
class Model {
 public:
  enum class Busy { No, Pausing, Draining, Saving, PausingToRevert, DrainingToRevert, PausingToHold, DrainingToHold };
  enum class What { Pause, Resume, Snapshot, Read, Revert, RevertAndResume, Live, Cancel };
  /// The answers that a step brings, in their order: by the number of the command.
  using Answers = std::vector<std::pair<int, bool>>;

  void ask(int number, What what, Answers& answers) {
    if (what == What::Read) return answers.emplace_back(number, !ended_), void();
    if (ended_) return answers.emplace_back(number, false), void();
    if (what == What::Cancel) {
      if (busy_ == Busy::Saving || live_)
        cancels_.push_back(number);
      else
        answers.emplace_back(number, false);
      return;
    }
    if (busy_ != Busy::No) return waiting_.emplace_back(number, what), void();
    begin(number, what, answers);
  }
  void parked(Answers& answers) {
    if (busy_ == Busy::PausingToRevert) {
      busy_ = Busy::DrainingToRevert;
      return;
    }
    if (busy_ == Busy::PausingToHold) {
      busy_ = Busy::DrainingToHold;
      return;
    }
    paused_ = true;
    leave(true, answers);
  }
  void drained(Answers& answers) {
    if (busy_ == Busy::Draining) {
      busy_ = Busy::Saving;
      return;
    }
    if (busy_ == Busy::DrainingToHold) {
      live_ = current_;
      return go_on(answers);
    }
    paused_ = !resumes_;
    leave(true, answers);
  }
  void written(Answers& answers) {
    for (const int number : std::exchange(cancels_, {})) answers.emplace_back(number, true);
    if (live_)
      answers.emplace_back(*std::exchange(live_, std::nullopt), false);
    else
      leave(false, answers);
  }
  void end(Answers& answers) {
    if (std::exchange(ended_, true)) return;
    for (const auto& [number, what] : std::exchange(waiting_, {})) answers.emplace_back(number, false);
    if (busy_ != Busy::No && busy_ != Busy::Saving) leave(false, answers);
  }
  [[nodiscard]] bool pauses() const {
    return busy_ == Busy::Pausing || busy_ == Busy::PausingToRevert || busy_ == Busy::PausingToHold;
  }
  [[nodiscard]] bool drains() const {
    return busy_ == Busy::Draining || busy_ == Busy::DrainingToRevert || busy_ == Busy::DrainingToHold;
  }
  [[nodiscard]] bool writes() const { return busy_ == Busy::Saving || live_.has_value(); }
  [[nodiscard]] Busy busy() const { return busy_; }
  [[nodiscard]] bool ended() const { return ended_; }

 private:
  void begin(int number, What what, Answers& answers) {
    if (what == What::Pause && !paused_) return start(number, Busy::Pausing);
    const bool needs_files =
        what == What::Snapshot || what == What::Live || what == What::Revert || what == What::RevertAndResume;
    if (needs_files && live_) return answers.emplace_back(number, false), void();
    if (what == What::Live) return start(number, paused_ ? Busy::DrainingToHold : Busy::PausingToHold);
    if (what == What::Snapshot && paused_) return start(number, Busy::Draining);
    if (what == What::Revert || what == What::RevertAndResume) {
      resumes_ = what == What::RevertAndResume;
      return start(number, paused_ ? Busy::DrainingToRevert : Busy::PausingToRevert);
    }
    if (what == What::Resume) paused_ = false;
    answers.emplace_back(number, what != What::Snapshot);
  }
  void start(int number, Busy busy) {
    current_ = number;
    busy_ = busy;
  }
  void leave(bool ok, Answers& answers) {
    answers.emplace_back(current_, ok);
    go_on(answers);
  }
  void go_on(Answers& answers) {
    busy_ = Busy::No;
    while (busy_ == Busy::No && !waiting_.empty()) {
      const auto [number, what] = waiting_.front();
      waiting_.pop_front();
      begin(number, what, answers);
    }
  }

  Busy busy_ = Busy::No;
  bool paused_ = false, ended_ = false, resumes_ = false;
  int current_ = 0;
  std::optional<int> live_{};  // the one that is being written
  std::vector<int> cancels_;
  std::deque<std::pair<int, What>> waiting_;
};

TEST_F(ControllerModel, GivesTheModelsAnswersInTheModelsOrder) {
  constexpr int kMachines = testing::repeats(60'000, 2'000);
  static_cast<void>(
      log_.configure({.log_path = {}, .level = LogLevel::Off, .show_level = {}, .show_log_origin = {}, .module = {}}));
  std::mt19937 random{18};  // NOLINT(cert-msc51-cpp): the same each time
  std::uint64_t steps = 0;
  for (int round = 0; round < kMachines; ++round) {
    make();
    adopt_revertible();
    Model model;
    Model::Answers expected, given;
    const int length = std::uniform_int_distribution{1, 100}(random);
    for (int number = 0; number < length; ++number, ++steps) {
      const auto reply = [&](int of) {
        return Reply{[&given, of](const Result<Answer>& answer) { given.emplace_back(of, answer.has_value()); }};
      };
      const auto both = [&](Model::What what, Command command) {
        model.ask(number, what, expected);
        controller_->perform(std::move(command), reply(number));
      };
      // An end comes anywhere, and what was under way comes back after it.
      const bool ends = std::uniform_int_distribution{0, 199}(random) == 0 || (number == length - 1 && round % 3 == 0);
      switch (ends ? 15 : std::uniform_int_distribution{0, 14}(random)) {
        case 0:
          both(Model::What::Read, GetInstanceInfo{});
          break;
        case 1:
        case 2:
          both(Model::What::Pause, PauseVm{});
          break;
        case 3:
          both(Model::What::Resume, ResumeVm{});
          break;
        case 4:
        case 5:
          both(Model::What::Snapshot, snapshot());
          break;
        case 6:
        case 7:
          if (model.pauses()) {
            model.parked(expected);
            ASSERT_TRUE(come(machine_.paused));
          }
          break;
        case 8:
        case 9:
          if (model.drains()) {
            model.drained(expected);
            ASSERT_TRUE(come(machine_.drained));
          } else if (model.writes()) {
            model.written(expected);
            ASSERT_TRUE(come_worker());
          } else {
            ASSERT_FALSE(machine_.drained) << "nobody waits for it, in step " << number << " of machine " << round;
          }
          break;
        case 10:
          both(Model::What::Revert, revert(false));
          break;
        case 11:
          both(Model::What::RevertAndResume, revert(true));
          break;
        case 12:
        case 13:
          both(Model::What::Live, live_snapshot());
          break;
        case 14:
          both(Model::What::Cancel, CancelSnapshot{});
          break;
        default:
          model.end(expected);
          controller_->finish({EndReason::Terminated, "told to stop"});
          break;
      }
      ASSERT_EQ(given, expected) << "machine " << round << ", step " << number;
    }
    controller_.reset();  // whose replies are of this round
  }
  RecordProperty("steps", std::to_string(steps));
  std::printf("the model and the controller agreed in %llu steps\n", static_cast<unsigned long long>(steps));
}

}  // namespace
}  // namespace mayfly
