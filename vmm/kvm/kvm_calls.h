#pragma once

#include "vmm/base/owned_fd.h"

#include <utility>

namespace mayfly {

/// The system calls to KVM: the host's, or those of a test's fake. Any thread.
class KvmCalls {
 public:
  KvmCalls() = default;
  KvmCalls(const KvmCalls&) = delete;
  KvmCalls& operator=(const KvmCalls&) = delete;
  virtual ~KvmCalls() = default;
  /// open(2) of KVM's device: a descriptor, or -1 and errno.
  [[nodiscard]] virtual int open(const char* path) noexcept = 0;
  /// ioctl(2): its result, or -1 and errno.
  [[nodiscard]] virtual int control(int fd, unsigned long request, unsigned long argument) noexcept = 0;

  /// Those of the host.
  [[nodiscard]] static KvmCalls& host() noexcept;
};

/// A descriptor of KVM, of a VM or of a vCPU.
class KvmFd {
 public:
  KvmFd(OwnedFd fd, KvmCalls& calls) noexcept : fd_(std::move(fd)), calls_(&calls) {}
  /// ioctl(2): its result, or -1 and errno.
  [[nodiscard]] int control(unsigned long request, unsigned long argument = 0) const noexcept {
    return calls_->control(fd_.get(), request, argument);
  }
  template <typename T>
  [[nodiscard]] int control(unsigned long request, T* argument) const noexcept {
    return control(request, reinterpret_cast<unsigned long>(argument));
  }
  [[nodiscard]] int get() const noexcept { return fd_.get(); }
  [[nodiscard]] KvmCalls& calls() const noexcept { return *calls_; }
  [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(fd_); }

 private:
  OwnedFd fd_;
  KvmCalls* calls_;
};

}  // namespace mayfly
