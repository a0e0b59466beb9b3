#include "vmm/boot/generation_id.h"

#include "vmm/boot/layout.h"

#include <sys/random.h>

#include <array>

namespace mayfly {

Status renew_generation_id(const GuestMemory& memory) {
  std::array<std::byte, 16> id{};
  // getrandom(2): up to 256 bytes come whole and uninterrupted once the host's pool is ready.
  if (::getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size()))
    return fail_errno(ErrorKind::System, "cannot make a VM generation id: the host gives no random numbers");
  ensure(memory.store(layout::kGenerationId, id), "the VM generation id lies outside guest memory");
  return {};
}

}  // namespace mayfly
