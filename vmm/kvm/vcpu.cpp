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
  // A child that holds guest memory must not hold the vCPU, and the VM with it.
  if (::madvise(run.address(), run.length(), MADV_DONTFORK) != 0)
    return fail_errno(ErrorKind::System, "cannot keep the run area of vCPU {} from child processes", index);
  return Vcpu{std::move(*fd), std::move(run), index, vm.xsave_size()};
}

Status Vcpu::control(unsigned long request, void* argument, std::string_view name) const {
  if (fd_.control(request, argument) != 0) return fail_errno(ErrorKind::Kvm, "{} of vCPU {} failed", name, index_);
  return {};
}

Status Vcpu::set_cpuid(const kvm_abi::CpuidTable& table) const {
  if (fd_.control(kvm_abi::kSetCpuid2, &table) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_SET_CPUID2 of vCPU {} ({} entries) failed", index_, table.count);
  return {};
}

Status Vcpu::set_cpuid(std::span<const kvm_cpuid_entry2> entries) const {
  kvm_abi::CpuidTable table;
  if (entries.size() > table.entries.size())
    return fail(ErrorKind::InvalidArgument, "vCPU {}: {} CPUID entries are more than KVM's {}", index_, entries.size(),
                table.entries.size());
  table.count = static_cast<std::uint32_t>(entries.size());
  std::ranges::copy(entries, table.entries.begin());
  return set_cpuid(table);
}

Result<std::vector<kvm_cpuid_entry2>> Vcpu::cpuid() const {
  kvm_abi::CpuidTable table;
  table.count = static_cast<std::uint32_t>(table.entries.size());
  if (auto done = control(kvm_abi::kGetCpuid2, &table, "KVM_GET_CPUID2"); !done) return propagate(done);
  return std::vector<kvm_cpuid_entry2>{table.entries.begin(), table.entries.begin() + table.count};
}

Status Vcpu::set_msrs(std::span<const MsrValue> values) const {
  while (!values.empty()) {
    kvm_abi::MsrTable table;
    table.count = static_cast<std::uint32_t>(std::min(values.size(), table.entries.size()));
    for (std::size_t i = 0; i < table.count; ++i)
      table.entries[i] = {.index = values[i].index, .reserved = 0, .data = values[i].value};
    const int done = fd_.control(kvm_abi::kSetMsrs, &table);
    if (done < 0) return fail_errno(ErrorKind::Kvm, "KVM_SET_MSRS of vCPU {} failed", index_);
    values = values.subspan(static_cast<std::size_t>(done));
    if (static_cast<std::uint32_t>(done) == table.count) continue;
    const MsrValue& refused = values.front();  // KVM stops at the first that it does not take
    // Some registers can only be read; a write that would change nothing is no loss.
    const auto present = refused.optional ? Result<std::uint64_t>{refused.value} : msr(refused.index);
    if (!present || *present != refused.value)
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
  const int done = fd_.control(kvm_abi::kGetMsrs, &table);
  if (done < 0) return fail_errno(ErrorKind::Kvm, "KVM_GET_MSRS of vCPU {} failed", index_);
  if (done == 0) return fail(ErrorKind::Unsupported, "this host's KVM does not have MSR {:#x}", index);
  return table.entries[0].data;
}

Result<std::vector<kvm_msr_entry>> Vcpu::msrs(std::span<const std::uint32_t> indices) const {
  std::vector<kvm_msr_entry> present;
  present.reserve(indices.size());
  while (!indices.empty()) {
    kvm_abi::MsrTable table;
    table.count = static_cast<std::uint32_t>(std::min(indices.size(), table.entries.size()));
    for (std::size_t i = 0; i < table.count; ++i) table.entries[i].index = indices[i];
    const int done = fd_.control(kvm_abi::kGetMsrs, &table);
    if (done < 0) return fail_errno(ErrorKind::Kvm, "KVM_GET_MSRS of vCPU {} failed", index_);
    present.insert(present.end(), table.entries.begin(), table.entries.begin() + done);
    // KVM stops at the first that this vCPU does not have.
    const bool stopped = static_cast<std::uint32_t>(done) < table.count;
    indices = indices.subspan(static_cast<std::size_t>(done) + (stopped ? 1 : 0));
  }
  return present;
}

Result<std::vector<std::byte>> Vcpu::xsave() const {
  std::vector<std::byte> area(xsave_size_);
  const unsigned long request = xsave_size_ > kvm_abi::kLeastXsaveSize ? kvm_abi::kGetXsave2 : kvm_abi::kGetXsave;
  if (auto done = control(request, area.data(), "KVM_GET_XSAVE"); !done) return propagate(done);
  return area;
}

Status Vcpu::set_xsave(std::span<const std::byte> area) const {
  if (area.size() != xsave_size_)
    return fail(ErrorKind::Unsupported,
                "vCPU {}: its XSAVE area has {} bytes, and this host's has {}; restore it on a host like the one that "
                "it was saved on",
                index_, area.size(), xsave_size_);
  return control(kvm_abi::kSetXsave, const_cast<std::byte*>(area.data()), "KVM_SET_XSAVE");
}

Status Vcpu::set_tsc_khz(std::uint32_t khz) const {
  if (fd_.control(KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz)) != 0)
    return fail_errno(ErrorKind::Unsupported,
                      "vCPU {}: its time stamp counter ran at {} kHz, and this host cannot make it so", index_, khz);
  return {};
}

Result<kvm_regs> Vcpu::regs() const {
  kvm_regs regs{};
  if (fd_.control(KVM_GET_REGS, &regs) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_GET_REGS of vCPU {} failed", index_);
  return regs;
}

Status Vcpu::set_regs(const kvm_regs& regs) const {
  if (fd_.control(KVM_SET_REGS, &regs) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_SET_REGS of vCPU {} failed", index_);
  return {};
}

Result<kvm_sregs> Vcpu::sregs() const {
  kvm_sregs sregs{};
  if (fd_.control(KVM_GET_SREGS, &sregs) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_GET_SREGS of vCPU {} failed", index_);
  return sregs;
}

Status Vcpu::set_sregs(const kvm_sregs& sregs) const {
  if (fd_.control(KVM_SET_SREGS, &sregs) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_SET_SREGS of vCPU {} failed", index_);
  return {};
}

std::uint32_t Vcpu::tsc_khz() const noexcept {
  const int khz = fd_.control(KVM_GET_TSC_KHZ);
  return khz > 0 ? static_cast<std::uint32_t>(khz) : 0;
}

std::optional<GuestAddress> Vcpu::translate(std::uint64_t linear) const noexcept {
  kvm_translation translation{};
  translation.linear_address = linear;
  if (fd_.control(KVM_TRANSLATE, &translation) != 0 || translation.valid == 0) return std::nullopt;
  return GuestAddress{translation.physical_address};
}

void Vcpu::notify_paused() const noexcept { (void)fd_.control(KVM_KVMCLOCK_CTRL); }

void Vcpu::interrupt(std::uint8_t vector) const noexcept {
  const kvm_interrupt request{.irq = vector};
  ensure(fd_.control(KVM_INTERRUPT, &request) == 0, "KVM_INTERRUPT was refused by a vCPU that is ready for one");
}

int Vcpu::run() const noexcept { return fd_.control(KVM_RUN) == 0 ? 0 : errno; }

}  // namespace mayfly
