#include "vmm/base/owned_fd.h"
#include "vmm/boot/boot.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

/// Any bytes as a kernel image. The first byte of the input decides whether the file is an initrd too.
/// Seeds: the images of tests/unit/vmm/boot, or any vmlinux and bzImage cut to a few KiB.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const mayfly::OwnedFd file{::memfd_create("image", MFD_CLOEXEC)};
  if (::write(file.get(), data + 1, size - 1) != static_cast<ssize_t>(size - 1)) return -1;
  mayfly::BootOptions options{.kernel_fd = file.get(), .kernel_path = "fuzz", .command_line = "quiet", .windows = {}};
  if ((data[0] & 1) != 0) options.initrd_fd = file.get();
  auto memory = mayfly::GuestMemory::create({.size_mib = 64});
  const auto entry = mayfly::prepare_boot(*memory, options);
  if (entry) mayfly::ensure(memory->bytes(entry->instruction, 1).has_value(), "the entry is not in guest memory");
  return 0;
}
