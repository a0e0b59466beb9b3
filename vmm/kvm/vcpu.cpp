#include "vmm/kvm/vcpu.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

namespace mayfly {

Result<Vcpu> Vcpu::create(std::size_t run_size, const Vm& vm, unsigned index) {
  auto fd = vm.create_vcpu(index);
  if (!fd) return propagate(fd);
  Mapping run{::mmap(nullptr, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd->get(), 0), run_size};
  if (!run) return fail_errno(ErrorKind::Kvm, "cannot map the run area of vCPU {}", index);
  return Vcpu{std::move(*fd), std::move(run), index};
}

Status Vcpu::set_cpuid(const kvm_abi::CpuidTable& table) const {
  if (::ioctl(fd_.get(), kvm_abi::kSetCpuid2, &table) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_SET_CPUID2 of vCPU {} ({} entries) failed", index_, table.count);
  return {};
}

Status Vcpu::set_msrs(std::span<const MsrValue> values) const {
  while (!values.empty()) {
    kvm_abi::MsrTable table;
    table.count = static_cast<std::uint32_t>(std::min(values.size(), table.entries.size()));
    for (std::size_t i = 0; i < table.count; ++i)
      table.entries[i] = {.index = values[i].index, .reserved = 0, .data = values[i].value};
    const int done = ::ioctl(fd_.get(), kvm_abi::kSetMsrs, &table);
    if (done < 0) return fail_errno(ErrorKind::Kvm, "KVM_SET_MSRS of vCPU {} failed", index_);
    values = values.subspan(static_cast<std::size_t>(done));
    if (static_cast<std::uint32_t>(done) == table.count) continue;
    const MsrValue& refused = values.front();  // KVM stops at the first that it does not take
    if (!refused.optional)
      return fail(ErrorKind::Kvm, "KVM does not take the value {:#x} for MSR {:#x} of vCPU {}", refused.value,
                  refused.index, index_);
    values = values.subspan(1);
  }
  return {};
}

Result<std::uint64_t> Vcpu::msr(std::uint32_t index) const {
  kvm_abi::MsrTable table;
  table.count = 1;
  table.entries[0].index = index;
  const int done = ::ioctl(fd_.get(), kvm_abi::kGetMsrs, &table);
  if (done < 0) return fail_errno(ErrorKind::Kvm, "KVM_GET_MSRS of vCPU {} failed", index_);
  if (done == 0) return fail(ErrorKind::Unsupported, "this host's KVM does not have MSR {:#x}", index);
  return table.entries[0].data;
}

Result<kvm_regs> Vcpu::regs() const {
  kvm_regs regs{};
  if (::ioctl(fd_.get(), KVM_GET_REGS, &regs) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_GET_REGS of vCPU {} failed", index_);
  return regs;
}

Status Vcpu::set_regs(const kvm_regs& regs) const {
  if (::ioctl(fd_.get(), KVM_SET_REGS, &regs) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_SET_REGS of vCPU {} failed", index_);
  return {};
}

Result<kvm_sregs> Vcpu::sregs() const {
  kvm_sregs sregs{};
  if (::ioctl(fd_.get(), KVM_GET_SREGS, &sregs) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_GET_SREGS of vCPU {} failed", index_);
  return sregs;
}

Status Vcpu::set_sregs(const kvm_sregs& sregs) const {
  if (::ioctl(fd_.get(), KVM_SET_SREGS, &sregs) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_SET_SREGS of vCPU {} failed", index_);
  return {};
}

std::uint32_t Vcpu::tsc_khz() const noexcept {
  const int khz = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
  return khz > 0 ? static_cast<std::uint32_t>(khz) : 0;
}

std::optional<GuestAddress> Vcpu::translate(std::uint64_t linear) const noexcept {
  kvm_translation translation{};
  translation.linear_address = linear;
  if (::ioctl(fd_.get(), KVM_TRANSLATE, &translation) != 0 || translation.valid == 0) return std::nullopt;
  return GuestAddress{translation.physical_address};
}

void Vcpu::notify_paused() const noexcept { (void)::ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0); }

int Vcpu::run() const noexcept { return ::ioctl(fd_.get(), KVM_RUN, 0) == 0 ? 0 : errno; }

}  // namespace mayfly
