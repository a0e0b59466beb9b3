#include "virtio/register_pages.h"

#include <sys/mman.h>

namespace mayfly {

Result<RegisterPages> RegisterPages::create(std::size_t count) {
  if (count == 0) return RegisterPages{Mapping{}};
  const std::size_t length = count * kMmioWindowSize;
  Mapping mapping{::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), length};
  if (!mapping) return fail_errno(ErrorKind::System, "no memory for the registers of {} devices", count);
  return RegisterPages{std::move(mapping)};
}

}  // namespace mayfly
