#include "vmm/boot/generation_id.h"

#include "vmm/base/random.h"
#include "vmm/boot/layout.h"

#include <array>

namespace mayfly {

Status renew_generation_id(const GuestMemory& memory) {
  std::array<std::byte, 16> id{};
  if (auto filled = fill_with_random(id, "make a VM generation id"); !filled) return filled;
  ensure(memory.store(layout::kGenerationId, id), "the VM generation id lies outside guest memory");
  return {};
}

}  // namespace mayfly
