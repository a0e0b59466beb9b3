#include "vmm/boot/initrd.h"

#include "vmm/memory/guest_memory.h"

namespace mayfly {

Result<AddressRange> place_initrd(const ImageFile& file, const AddressRange& free) {
  const std::uint64_t room = free.end > free.start ? free.size() : 0;
  if (file.size() <= room) {
    const std::uint64_t start = align_down(free.end - file.size(), kGuestPageSize);
    if (start >= free.start) return AddressRange{start, start + file.size()};
  }
  return fail(ErrorKind::TooLarge,
              "{} has {} bytes, and guest memory has {} bytes for it between the end of the kernel at {:#x} and {:#x}; "
              "raise mem_size_mib or give a smaller initrd",
              file.name(), file.size(), room, free.start, free.end);
}

}  // namespace mayfly
