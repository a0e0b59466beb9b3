#include "vmm/kvm/kvm_calls.h"

#include <fcntl.h>
#include <sys/ioctl.h>

namespace mayfly {
namespace {

class HostKvmCalls final : public KvmCalls {
 public:
  int open(const char* path) noexcept override { return ::open(path, O_RDWR | O_CLOEXEC); }
  int control(int fd, unsigned long request, unsigned long argument) noexcept override {
    return ::ioctl(fd, request, argument);
  }
};

}  // namespace

KvmCalls& KvmCalls::host() noexcept {
  static HostKvmCalls calls;
  return calls;
}

}  // namespace mayfly
