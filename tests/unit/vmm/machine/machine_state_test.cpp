#include "vmm/machine/machine_state.h"

#include <array>
#include <set>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::array kStates = {MachineState::NotStarted, MachineState::Running, MachineState::Paused};

std::vector<Command> always() {
  return {GetInstanceInfo{}, GetMachineConfig{}, GetVmConfig{},  GetPrometheusMetrics{}, GetMmds{},
          PutMmds{},         PatchMmds{},        FlushMetrics{}, GetSnapshot{},          CancelSnapshot{}};
}
std::vector<Command> before_start() {
  return {PutBootSource{}, PutMachineConfig{},    PatchMachineConfig{}, PutCpuConfig{}, PutSerial{},
          PutDrive{},      PutNetworkInterface{}, PutMmdsConfig{},      PutChannel{},   PutLogger{},
          PutMetrics{},    StartInstance{},       LoadSnapshot{}};
}
std::vector<Command> after_start() {
  return {PauseVm{},        ResumeVm{},         PatchDrive{},       PatchNetworkInterface{},
          SendCtrlAltDel{}, FinishWorkingSet{}, RevertSnapshot{},   CreateLiveSnapshot{},
          BranchVm{},       GetMemory{},        GetMemoryMappings{}};
}

std::vector<Command> while_paused() { return {CreateSnapshot{}, GetDirtyMemory{}}; }

TEST(MachineState, LooksAndFlushesAreLegalInEveryState) {
  for (const Command& command : always())
    for (const MachineState state : kStates)
      EXPECT_TRUE(check_legal(command, state)) << name_of(command) << " in " << name_of(state);
}

TEST(MachineState, ConfigurationAndStartAreRefusedOnceTheMachineHasStarted) {
  for (const Command& command : before_start()) {
    EXPECT_TRUE(check_legal(command, MachineState::NotStarted)) << name_of(command);
    for (const MachineState state : {MachineState::Running, MachineState::Paused}) {
      const auto legal = check_legal(command, state);
      ASSERT_FALSE(legal) << name_of(command);
      EXPECT_EQ(legal.error().kind, ErrorKind::State);
      EXPECT_NE(legal.error().message.find(name_of(command)), std::string::npos);
      EXPECT_NE(legal.error().message.find(name_of(state)), std::string::npos);
    }
  }
}

TEST(MachineState, PauseResumeAndKeysAreRefusedBeforeTheStart) {
  for (const Command& command : after_start()) {
    const auto legal = check_legal(command, MachineState::NotStarted);
    ASSERT_FALSE(legal) << name_of(command);
    EXPECT_NE(legal.error().message.find("InstanceStart"), std::string::npos);
    EXPECT_TRUE(check_legal(command, MachineState::Running)) << name_of(command);
  }
}

TEST(MachineState, KeysArePressedWhileTheMachineIsPausedToo) {
  EXPECT_TRUE(check_legal(SendCtrlAltDel{}, MachineState::Paused));
  EXPECT_TRUE(check_legal(PauseVm{}, MachineState::Paused));
  EXPECT_TRUE(check_legal(ResumeVm{}, MachineState::Paused));
}

TEST(MachineState, AMachineGoesBackWhetherItRunsOrIsPaused) {
  EXPECT_TRUE(check_legal(RevertSnapshot{}, MachineState::Running));
  EXPECT_TRUE(check_legal(RevertSnapshot{}, MachineState::Paused));
}

TEST(MachineState, DevicesAreChangedWhileTheMachineRunsOrIsPaused) {
  for (const MachineState state : {MachineState::Running, MachineState::Paused}) {
    EXPECT_TRUE(check_legal(PatchDrive{}, state)) << name_of(state);
    EXPECT_TRUE(check_legal(PatchNetworkInterface{}, state)) << name_of(state);
  }
  EXPECT_EQ(
      check_legal(PatchDrive{}, MachineState::NotStarted).error().message,
      "PATCH /drives is only possible after the machine has started; it is Not started: send InstanceStart first");
  EXPECT_EQ(check_legal(PutNetworkInterface{}, MachineState::Running).error().message,
            "PUT /network-interfaces is only possible before the machine starts; it is Running");
}

TEST(MachineState, ASnapshotIsTakenOfAPausedMachineAndLoadedIntoAFreshOne) {
  EXPECT_TRUE(check_legal(CreateSnapshot{}, MachineState::Paused));
  EXPECT_EQ(check_legal(CreateSnapshot{}, MachineState::Running).error().message,
            "PUT /snapshot/create is only possible while the machine is paused; it is Running: send PATCH /vm with "
            "state Paused first");
  EXPECT_EQ(check_legal(CreateSnapshot{}, MachineState::NotStarted).error().message,
            "PUT /snapshot/create is only possible after the machine has started; it is Not started: send "
            "InstanceStart first");
  EXPECT_EQ(check_legal(LoadSnapshot{}, MachineState::Paused).error().message,
            "PUT /snapshot/load is only possible before the machine starts; it is Paused");
}

TEST(MachineState, EveryCommandIsInOneOfTheListsAbove) {
  std::set<std::size_t> seen;
  for (const auto& list : {always(), before_start(), after_start(), while_paused()})
    for (const Command& command : list) EXPECT_TRUE(seen.insert(command.index()).second);
  EXPECT_EQ(seen.size(), std::variant_size_v<Command>);
}

TEST(MachineState, WhatIsAnsweredWhileTheMachineIsBusyChangesNothing) {
  const std::vector<Command> reads = {GetInstanceInfo{},      GetMachineConfig{}, GetVmConfig{},
                                      GetPrometheusMetrics{}, GetMmds{},          FlushMetrics{},
                                      GetSnapshot{},          CancelSnapshot{},   GetMemoryMappings{}};
  std::set<std::size_t> are_reads;
  for (const Command& command : reads) {
    EXPECT_TRUE(is_read(command)) << name_of(command);
    are_reads.insert(command.index());
  }
  for (const auto& list : {always(), before_start(), after_start(), while_paused()})
    for (const Command& command : list) EXPECT_EQ(is_read(command), are_reads.contains(command.index()));
}

TEST(MachineState, EveryCommandHasANameOfItsOwnThatBeginsWithItsMethod) {
  std::set<std::string_view> names;
  for (const auto& list : {always(), before_start(), after_start(), while_paused()}) {
    for (const Command& command : list) {
      EXPECT_TRUE(names.insert(name_of(command)).second) << name_of(command);
      const CommandMethod method = info_of(command).method;
      EXPECT_EQ(name_of(command).starts_with("GET "), method == CommandMethod::Get) << name_of(command);
      EXPECT_EQ(name_of(command).starts_with("PATCH "), method == CommandMethod::Patch) << name_of(command);
    }
  }
}

}  // namespace
}  // namespace mayfly
