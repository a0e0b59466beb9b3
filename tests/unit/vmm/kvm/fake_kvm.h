#pragma once

#include "vmm/kvm/abi.h"
#include "vmm/kvm/kvm_calls.h"

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::testing {

/// A KVM that is made up: it keeps the registers that vCPUs are given, and tells of every call. Its guests run without
/// an instruction, until they are kicked or leave by an exit that the test gives.
///
///   FakeKvm kvm;
///   kvm.fail_once(7, EIO);                     // the seventh call from now
///   auto vm = PreparedVm::begin({}, {}, kvm);
///
/// Its descriptors are files of memory: that of a vCPU can be mapped. Any thread.
class FakeKvm final : public KvmCalls {
 public:
  /// What a vCPU was given.
  struct VcpuRegisters {
    std::vector<kvm_cpuid_entry2> cpuid{};
    std::map<std::uint32_t, std::uint64_t> msrs{};
    kvm_regs regs{};
    kvm_sregs sregs{};
    std::vector<std::byte> xsave = std::vector<std::byte>(kvm_abi::kLeastXsaveSize);
    kvm_xcrs xcrs{};
    kvm_debugregs debug_regs{};
    kvm_lapic_state lapic{};
    kvm_mp_state mp_state{};
    kvm_vcpu_events events{};
  };
  /// A guest's exit: fills the run area and returns 0, or an errno that KVM_RUN fails with.
  using Exit = std::function<int(kvm_run&)>;

  FakeKvm();
  ~FakeKvm() override;

  // KvmCalls
  [[nodiscard]] int open(const char* path) noexcept override;
  [[nodiscard]] int control(int fd, unsigned long request, unsigned long argument) noexcept override;

  /// The `call`th from now, from 0 on and but for KVM_RUN, fails with `error_number`.
  void fail_once(std::size_t call, int error_number);
  /// The name of the call that failed; none: it has not come yet.
  [[nodiscard]] std::optional<std::string> failed() const;
  /// The names of all calls since the beginning or forget(), in their order, but for KVM_RUN: "KVM_CREATE_VM".
  [[nodiscard]] std::vector<std::string> calls() const;
  void forget();

  /// KVM_CREATE_VM sleeps from now on, until release(). It counts as a call when it is done.
  void hold_creation();
  void release();
  /// From now on KVM_CREATE_VCPU sleeps until there is memory, or something was refused: whoever waits for the vCPU first
  /// is late.
  void make_vcpus_after_memory();

  /// From now on it does not have the capability.
  void lack(unsigned long capability);

  /// The first vCPU's next exit.
  void leave(Exit exit);
  /// How often a vCPU has entered its guest.
  [[nodiscard]] std::size_t entries() const;
  [[nodiscard]] std::size_t vcpu_count() const;
  [[nodiscard]] VcpuRegisters registers(std::size_t vcpu) const;
  void set_registers(std::size_t vcpu, VcpuRegisters registers);
  [[nodiscard]] std::uint64_t clock_ns() const;
  void set_clock_ns(std::uint64_t ns);
  /// What the next KVM_GET_DIRTY_LOG of any slot tells: the first words of its bitmap.
  void set_dirty(std::vector<std::uint64_t> words);

 private:
  struct FakeVcpu {
    int fd = -1;
    kvm_run* run = nullptr;
    VcpuRegisters registers{};
  };
  [[nodiscard]] int answer(int fd, unsigned long request, unsigned long argument);
  [[nodiscard]] int answer_system(unsigned long request, unsigned long argument);
  [[nodiscard]] int answer_vm(unsigned long request, unsigned long argument);
  [[nodiscard]] int answer_vcpu(FakeVcpu& vcpu, unsigned long request, unsigned long argument);
  [[nodiscard]] static int answer_msrs(FakeVcpu& vcpu, unsigned long request, kvm_abi::MsrTable& table);
  [[nodiscard]] int run(int fd);
  [[nodiscard]] FakeVcpu* vcpu_of(int fd);

  mutable std::mutex mutex_;
  std::condition_variable released_;
  bool creation_held_ = false;
  bool vcpus_follow_memory_ = false;
  std::vector<std::string> calls_;
  std::optional<std::size_t> calls_to_failure_;
  int error_number_ = 0;
  std::optional<std::string> failed_;
  int system_fd_ = -1;
  std::optional<unsigned long> lacking_;
  std::vector<FakeVcpu> vcpus_;
  std::uint64_t clock_ns_ = 0;
  std::vector<std::uint64_t> dirty_;
  std::vector<Exit> exits_;  // of the first vCPU, to come
  OwnedFd news_;             // readable when there is one
  std::size_t entries_ = 0;
};

}  // namespace mayfly::testing
