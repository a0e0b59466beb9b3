#include "tests/support/loop_device.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace mayfly::testing {

std::optional<LoopDevice> LoopDevice::create(const std::string& backing) {
  const OwnedFd control{::open("/dev/loop-control", O_RDWR | O_CLOEXEC)};
  const OwnedFd file{::open(backing.c_str(), O_RDWR | O_CLOEXEC)};
  if (!control || !file) return std::nullopt;
  // Somebody else may take the number that is free before it is configured.
  for (int attempt = 0; attempt < 16; ++attempt) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return std::nullopt;
    const std::string path = "/dev/loop" + std::to_string(number);
    OwnedFd device{::open(path.c_str(), O_RDWR | O_CLOEXEC)};
    if (!device) return std::nullopt;
    loop_config config{};
    config.fd = static_cast<__u32>(file.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    if (::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) return LoopDevice{std::move(device)};
    if (errno != EBUSY) return std::nullopt;
  }
  return std::nullopt;
}

void LoopDevice::make_node(const std::string& path) const {
  struct stat status = {};
  if (::fstat(fd_.get(), &status) != 0 || ::mknod(path.c_str(), S_IFBLK | 0600, status.st_rdev) != 0)
    throw std::runtime_error("cannot make the device node " + path + ": " + std::strerror(errno));
}

}  // namespace mayfly::testing
