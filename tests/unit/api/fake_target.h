#pragma once

#include "vmm/machine/command.h"

#include <mutex>
#include <optional>
#include <vector>

namespace mayfly {

/// A machine that remembers what it was told and answers as a machine of its kind would.
class FakeTarget : public CommandTarget {
 public:
  void submit(Command command, Reply reply) override { std::move(reply).give(answer_to(std::move(command))); }
  Result<Answer> answer_to(Command command) {
    const std::lock_guard lock{mutex_};
    commands_.push_back(command);
    if (refusal_) return std::unexpected(*refusal_);
    if (std::holds_alternative<GetInstanceInfo>(command)) return InstanceInfo{.id = "fake"};
    if (std::holds_alternative<GetMachineConfig>(command)) return MachineConfig{};
    if (std::holds_alternative<GetVmConfig>(command)) return VmConfig{};
    if (std::holds_alternative<GetPrometheusMetrics>(command)) return PrometheusText{"mayfly_up 1\n"};
    if (std::holds_alternative<GetMmds>(command)) return MmdsContents{"{}"};
    if (std::holds_alternative<GetSnapshot>(command)) return SnapshotStatus{};
    if (std::holds_alternative<BranchVm>(command)) return Branched{};
    if (std::holds_alternative<GetMemoryMappings>(command)) return MemoryMappings{};
    if (std::holds_alternative<GetMemory>(command)) return LookedAtPages{};
    if (std::holds_alternative<GetDirtyMemory>(command)) return DirtyMemory{};
    return std::monostate{};
  }

  /// Every later command is answered with this.
  void refuse_with(Error refusal) {
    const std::lock_guard lock{mutex_};
    refusal_ = std::move(refusal);
  }
  [[nodiscard]] std::vector<Command> commands() const {
    const std::lock_guard lock{mutex_};
    return commands_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Command> commands_;
  std::optional<Error> refusal_;
};

}  // namespace mayfly
