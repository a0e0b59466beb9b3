#include "vmm/kvm/vm.h"

#include <algorithm>
#include <cerrno>

namespace mayfly {
namespace {

/// Where an Intel host without unrestricted guests keeps its real-mode TSS: in the MMIO hole, three pages.
constexpr unsigned long kTssAddress = 0xFFFB'D000;

}  // namespace

Vm::Vm(KvmFd fd) noexcept : fd_(std::move(fd)) {
  const int size = check_extension(KVM_CAP_XSAVE2);
  xsave_size_ = std::max(size > 0 ? static_cast<std::size_t>(size) : 0, kvm_abi::kLeastXsaveSize);
}

Result<std::unique_ptr<Vm>> Vm::create(const Kvm& kvm) {
  auto fd = kvm.create_vm();
  if (!fd) return propagate(fd);
  std::unique_ptr<Vm> vm{new Vm{std::move(*fd)}};
  if (vm->fd_.control(KVM_SET_TSS_ADDR, kTssAddress) != 0) return fail_errno(ErrorKind::Kvm, "KVM_SET_TSS_ADDR failed");
  kvm_enable_cap split{};
  split.cap = KVM_CAP_SPLIT_IRQCHIP;
  split.args[0] = kIoapicPins;  // routes that KVM reserves for end-of-interrupt exits
  if (vm->fd_.control(KVM_ENABLE_CAP, &split) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_ENABLE_CAP of KVM_CAP_SPLIT_IRQCHIP failed");
  return vm;
}

Status Vm::map_memory(const GuestMemory& memory, bool log_dirty) {
  std::uint32_t slot = 0;
  for (const GuestMemory::Region& region : memory.regions()) {
    const kvm_userspace_memory_region request{
        .slot = slot++,
        .flags = log_dirty ? static_cast<std::uint32_t>(KVM_MEM_LOG_DIRTY_PAGES) : 0U,
        .guest_phys_addr = region.start.value,
        .memory_size = region.size(),
        .userspace_addr = reinterpret_cast<std::uintptr_t>(region.mapping.address()),
    };
    if (fd_.control(KVM_SET_USER_MEMORY_REGION, &request) != 0)
      return fail_errno(ErrorKind::Kvm, "KVM_SET_USER_MEMORY_REGION of {} MiB at {:#x} failed", region.size() / kMiB,
                        region.start.value);
  }
  return {};
}

Status Vm::take_dirty_log(std::uint32_t region, std::span<std::uint64_t> bitmap) const {
  kvm_dirty_log request{};
  request.slot = region;
  request.dirty_bitmap = bitmap.data();
  if (fd_.control(KVM_GET_DIRTY_LOG, &request) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_GET_DIRTY_LOG of memory slot {} failed", region);
  return {};
}

Result<kvm_clock_data> Vm::clock() const {
  kvm_clock_data clock{};
  if (fd_.control(KVM_GET_CLOCK, &clock) != 0) return fail_errno(ErrorKind::Kvm, "KVM_GET_CLOCK failed");
  return clock;
}

Status Vm::set_clock(const kvm_clock_data& clock) const {
  if (fd_.control(KVM_SET_CLOCK, &clock) != 0) return fail_errno(ErrorKind::Kvm, "KVM_SET_CLOCK failed");
  return {};
}

Status Vm::attach_kick(GuestAddress at, std::uint32_t value, int event_fd) const {
  kvm_ioeventfd request{};
  request.datamatch = value;
  request.addr = at.value;
  request.len = sizeof value;
  request.fd = event_fd;
  request.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
  if (fd_.control(KVM_IOEVENTFD, &request) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_IOEVENTFD at {:#x} failed", at.value);
  return {};
}

Status Vm::attach_interrupt(unsigned gsi, int event_fd) const {
  kvm_irqfd request{};
  request.fd = static_cast<std::uint32_t>(event_fd);
  request.gsi = gsi;
  if (fd_.control(KVM_IRQFD, &request) != 0) return fail_errno(ErrorKind::Kvm, "KVM_IRQFD of interrupt {} failed", gsi);
  return {};
}

Result<KvmFd> Vm::create_vcpu(unsigned index) const {
  KvmFd vcpu{OwnedFd{fd_.control(KVM_CREATE_VCPU, static_cast<unsigned long>(index))}, fd_.calls()};
  if (!vcpu) return fail_errno(ErrorKind::Kvm, "KVM_CREATE_VCPU of vCPU {} failed", index);
  return vcpu;
}

int Vm::check_extension(int capability) const noexcept {
  return fd_.control(KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability));
}

void Vm::send(const MsiMessage& message) noexcept {
  kvm_msi msi{};
  msi.address_lo = static_cast<std::uint32_t>(message.address);
  msi.address_hi = static_cast<std::uint32_t>(message.address >> 32);
  msi.data = message.data;
  // A message to a vCPU that is not there, or whose LAPIC is off, is lost as on a real bus: nothing to report.
  (void)fd_.control(KVM_SIGNAL_MSI, &msi);
}

void Vm::route(unsigned pin, const std::optional<MsiMessage>& message) noexcept {
  const MutexLock lock{routes_mutex_};
  routes_.at(pin) = message;
  kvm_abi::RoutingTable table;
  for (unsigned gsi = 0; gsi < kIoapicPins; ++gsi) {
    if (!routes_[gsi]) continue;
    kvm_irq_routing_entry& entry = table.entries[table.count++];
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = static_cast<std::uint32_t>(routes_[gsi]->address);
    entry.u.msi.address_hi = static_cast<std::uint32_t>(routes_[gsi]->address >> 32);
    entry.u.msi.data = routes_[gsi]->data;
  }
  ensure(fd_.control(kvm_abi::kSetGsiRouting, &table) == 0, "KVM_SET_GSI_ROUTING refused a valid table");
}

}  // namespace mayfly
