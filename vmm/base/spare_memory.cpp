#include "vmm/base/spare_memory.h"

#include <malloc.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace mayfly {
namespace {

constexpr std::uintptr_t kPage = 4096;
/// Deeper than any call of ours: what lies below a stack is not mapped for a much longer way.
constexpr std::uintptr_t kDeepest = 256 << 10;

}  // namespace

void give_back_spare_memory() noexcept {
  (void)::malloc_trim(0);
  // The page below this frame stays, for the frames of the calls from here.
  const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)) / kPage * kPage;
  // ENOMEM: the stack ends before; what there is of it was given back.
  (void)::madvise(reinterpret_cast<void*>(here - kPage - kDeepest),  // NOLINT(performance-no-int-to-ptr)
                  kDeepest, MADV_DONTNEED);
}

}  // namespace mayfly
