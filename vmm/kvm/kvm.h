#pragma once

#include "vmm/base/error.h"
#include "vmm/kvm/abi.h"
#include "vmm/kvm/kvm_calls.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

/// /dev/kvm: the door to the host's hypervisor.
///
///   auto kvm = Kvm::open();
///   auto vm = Vm::create(*kvm);   // see vm.h
namespace mayfly {

class Kvm {
 public:
  /// Opens the device and checks its API version and the capabilities that Mayfly cannot do without. Errors: not
  /// there, not permitted, too old; each says what to do.
  [[nodiscard]] static Result<Kvm> open(KvmCalls& calls = KvmCalls::host(), const std::string& path = "/dev/kvm");

  /// KVM_CHECK_EXTENSION: 0 where the capability is absent.
  [[nodiscard]] int check_extension(int capability) const noexcept;
  /// KVM_GET_SUPPORTED_CPUID: what this host can show a guest. 60-85 us.
  [[nodiscard]] Result<std::unique_ptr<kvm_abi::CpuidTable>> supported_cpuid() const;

  /// KVM_GET_MSR_INDEX_LIST: the model-specific registers that make up a vCPU's state here.
  [[nodiscard]] Result<std::vector<std::uint32_t>> msr_indices() const;

  /// KVM_GET_MSRS of the device: what a register that tells of features has on this host; empty where KVM does not say.
  [[nodiscard]] Result<std::optional<std::uint64_t>> feature_msr(std::uint32_t index) const;

  /// KVM_CREATE_VM
  [[nodiscard]] Result<KvmFd> create_vm() const;
  /// Bytes of the kvm_run area of a vCPU.
  [[nodiscard]] std::size_t run_size() const noexcept { return run_size_; }

 private:
  Kvm(KvmFd fd, std::size_t run_size) noexcept : fd_(std::move(fd)), run_size_(run_size) {}

  KvmFd fd_;
  std::size_t run_size_;
};

}  // namespace mayfly
