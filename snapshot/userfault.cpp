#include "snapshot/userfault.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly {
namespace {

// linux/userfaultfd.h of 6.1 and later.
constexpr const char* kDevice = "/dev/userfaultfd";
constexpr unsigned long kNewDescriptor = _IO(UFFDIO, 0x00);

/// Faults must be answered that KVM and the ring have on the guest's behalf, so not UFFD_USER_MODE_ONLY.
Result<OwnedFd> make_userfault(std::string_view field) {
  // The device is a matter of file permissions; the system call one of privileges or of a sysctl.
  if (const OwnedFd device{::open(kDevice, O_RDWR | O_CLOEXEC)}; device)
    if (OwnedFd fd{::ioctl(device.get(), kNewDescriptor, O_CLOEXEC | O_NONBLOCK)}; fd) return fd;
  OwnedFd fd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
  if (!fd)
    return fail_errno(ErrorKind::Permission,
                      "{}: no userfaultfd for this process; give it access to {} (mayfly-jailer: "
                      "--allow-userfaultfd), or set the sysctl vm.unprivileged_userfaultfd to 1",
                      field, kDevice);
  return fd;
}

}  // namespace

Result<OwnedFd> watch_for_faults(const GuestMemory& memory, std::string_view field) {
  auto userfault = make_userfault(field);
  if (!userfault) return userfault;
  uffdio_api api{};
  api.api = UFFD_API;
  if (::ioctl(userfault->get(), UFFDIO_API, &api) != 0)
    return fail_errno(ErrorKind::Unsupported, "{}: this host's userfaultfd is too old", field);
  for (const GuestMemory::Region& region : memory.regions()) {
    uffdio_register range{};
    range.range.start = reinterpret_cast<std::uintptr_t>(region.mapping.address());
    range.range.len = region.size();
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (::ioctl(userfault->get(), UFFDIO_REGISTER, &range) != 0)
      return fail_errno(ErrorKind::System, "{}: cannot watch {} MiB of guest memory for faults", field,
                        region.size() / kMiB);
  }
  return userfault;
}

void stop_faults(const OwnedFd& userfault, const GuestMemory& memory) noexcept {
  for (const GuestMemory::Region& region : memory.regions()) {
    uffdio_range range{.start = reinterpret_cast<std::uintptr_t>(region.mapping.address()), .len = region.size()};
    (void)::ioctl(userfault.get(), UFFDIO_UNREGISTER, &range);
  }
}

}  // namespace mayfly
