#include "vmm/boot/identity_page.h"

#include "vmm/base/random.h"
#include "vmm/boot/layout.h"

#include <array>

namespace mayfly {
namespace {

Status write_id(const GuestMemory& memory, GuestAddress at) {
  std::array<std::byte, 16> id{};
  if (auto filled = fill_with_random(id, "make a VM generation id"); !filled) return filled;
  ensure(memory.store(at, id), "the VM generation id lies outside guest memory");
  return {};
}

}  // namespace

Status write_identity(const GuestMemory& memory) {
  ensure(memory.store(layout::kVmClock, VmClock{}), "the VMClock lies outside guest memory");
  return write_id(memory, layout::kGenerationId);
}

Status renew_identity(const GuestMemory& memory) {
  auto clock = memory.load<VmClock>(layout::kVmClock);
  ensure(clock.has_value(), "the VMClock lies outside guest memory");
  if (clock->magic != VmClock::kMagic) return write_id(memory, layout::kGenerationIdBeforeVmClock);
  clock->seq_count = (clock->seq_count | 1) + 1;
  ++clock->disruption_marker;
  ++clock->vm_generation_count;
  ensure(memory.store(layout::kVmClock, *clock), "the VMClock lies outside guest memory");
  return write_id(memory, layout::kGenerationId);
}

}  // namespace mayfly
