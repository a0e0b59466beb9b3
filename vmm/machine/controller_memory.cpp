// The controller's looks at guest memory, for a process that reads it from outside.

#include "vmm/machine/controller.h"

#include <utility>

namespace mayfly {

Result<Answer> Controller::apply(const GetMemoryMappings&) { return MemoryMappings{mappings_of(machine_->memory())}; }

void Controller::look_at_memory(Look look, Reply reply) {
  if (auto can = check_can_save(); !can) return std::move(reply).give(propagate(can));
  enter(Transition::Looking, "guest memory to be looked at", std::move(reply));
  const auto answer = std::make_shared<std::optional<Result<Answer>>>();
  const auto memory_is = state_ == MachineState::Paused ? MemoryIs::Still : MemoryIs::WrittenTo;
  auto begun =
      makers_.worker->begin([answer, look = std::move(look), memory_is, &memory = machine_->memory()](
                                const std::stop_token& stop) { answer->emplace(look(memory, memory_is, stop)); },
                            [this, answer] { leave(end_ ? Result<Answer>{has_ended()} : std::move(**answer)); });
  if (!begun) leave(propagate(begun));
}

void Controller::begin(const GetMemory&, Reply reply) {
  look_at_memory(
      [](const GuestMemory& memory, MemoryIs memory_is, const std::stop_token& stop) -> Result<Answer> {
        auto pages = look_at_pages(memory, memory_is, stop);
        if (!pages) return propagate(pages);
        return std::move(*pages);
      },
      std::move(reply));
}

void Controller::begin(const GetDirtyMemory&, Reply reply) {
  // Before changes(): a live snapshot's end forgets all that was taken by then, and has not written it.
  if (auto can = check_can_save(); !can) return std::move(reply).give(propagate(can));
  auto changes = machine_->changes();
  if (!changes) return std::move(reply).give(propagate(changes));
  if (last_snapshot_ && *changes) return std::move(reply).give(DirtyMemory{bitmap_of(machine_->memory(), **changes)});
  // Since nothing, it is everything. Pages of zeros count: what they are put over may be newer than the last memory file.
  look_at_memory(
      [since_any = last_snapshot_.has_value()](const GuestMemory& memory, MemoryIs,
                                               const std::stop_token&) -> Result<Answer> {
        auto pages = since_any ? private_pages(memory) : touched_pages(memory, MemoryIs::WrittenTo);
        if (!pages) return propagate(pages);
        return DirtyMemory{bitmap_of(memory, *pages)};
      },
      std::move(reply));
}

}  // namespace mayfly
