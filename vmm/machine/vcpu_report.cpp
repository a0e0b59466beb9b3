#include "vmm/machine/vcpu_report.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <span>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// The longest x86 instruction (Intel SDM volume 2, 2.3.11).
constexpr std::size_t kMaximumInstruction = 15;

std::string hex_bytes(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes)
    fmt::format_to(std::back_inserter(text), "{}{:02x}", text.empty() ? "" : " ", std::to_integer<unsigned>(byte));
  return text;
}

/// The bytes at the instruction pointer, as far as the guest's page tables and memory have them.
std::string instruction_at(const Vcpu& vcpu, const GuestMemory& memory, std::uint64_t rip) {
  std::array<std::byte, kMaximumInstruction> bytes{};
  std::size_t count = 0;
  while (count < bytes.size()) {
    const auto at = vcpu.translate(rip + count);
    if (!at) break;
    const std::size_t in_page =
        std::min<std::size_t>(bytes.size() - count, kGuestPageSize - at->value % kGuestPageSize);
    const auto source = memory.bytes(*at, in_page);
    if (!source) break;
    // By the kernel, which answers EFAULT where a plain copy would die: the page may belong to a boot file that has
    // been cut short since.
    const iovec to{.iov_base = bytes.data() + count, .iov_len = in_page};
    const iovec from{.iov_base = source->data(), .iov_len = in_page};
    if (::process_vm_readv(::getpid(), &to, 1, &from, 1, 0) != static_cast<ssize_t>(in_page)) break;
    count += in_page;
  }
  return count == 0 ? std::string{"not readable"} : hex_bytes(std::span{bytes}.first(count));
}

std::string describe_registers(const Vcpu& vcpu) {
  const auto regs = vcpu.regs();
  const auto sregs = vcpu.sregs();
  if (!regs || !sregs) return "registers not readable";
  return fmt::format(
      "rip={:#x} rsp={:#x} rflags={:#x} rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} rsi={:#x} rdi={:#x} rbp={:#x} "
      "r8={:#x} r9={:#x} r10={:#x} r11={:#x} r12={:#x} r13={:#x} r14={:#x} r15={:#x} cr0={:#x} cr2={:#x} cr3={:#x} "
      "cr4={:#x} efer={:#x} cs={:#x} ss={:#x} cpl={}",
      regs->rip, regs->rsp, regs->rflags, regs->rax, regs->rbx, regs->rcx, regs->rdx, regs->rsi, regs->rdi, regs->rbp,
      regs->r8, regs->r9, regs->r10, regs->r11, regs->r12, regs->r13, regs->r14, regs->r15, sregs->cr0, sregs->cr2,
      sregs->cr3, sregs->cr4, sregs->efer, sregs->cs.selector, sregs->ss.selector, sregs->ss.dpl);
}

/// "vCPU 0: <what> at rip 0x..., instruction bytes ...; <registers>"
std::string report(const Vcpu& vcpu, const GuestMemory& memory, std::string_view what) {
  const auto regs = vcpu.regs();
  const std::uint64_t rip = regs ? regs->rip : 0;
  return fmt::format("vCPU {}: {} at address {:#x}, instruction bytes {}; {}", vcpu.index(), what, rip,
                     instruction_at(vcpu, memory, rip), describe_registers(vcpu));
}

}  // namespace

std::string describe_internal_error(const Vcpu& vcpu, const GuestMemory& memory) {
  const auto& internal = vcpu.run_area().internal;
  if (internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
    std::string data;
    for (const std::uint64_t word : std::span{internal.data}.first(std::min<std::size_t>(internal.ndata, 16)))
      fmt::format_to(std::back_inserter(data), " {:#x}", word);
    return report(vcpu, memory, fmt::format("KVM internal error {} (data:{})", internal.suberror, data));
  }
  const auto& failure = vcpu.run_area().emulation_failure;
  std::string bytes;
  if (failure.ndata >= 3 && (failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0)
    bytes = hex_bytes(std::as_bytes(std::span{failure.insn_bytes})
                          .first(std::min<std::size_t>(failure.insn_size, sizeof failure.insn_bytes)));
  return report(
      vcpu, memory,
      fmt::format("KVM cannot emulate the guest's instruction{}{} (where KVM emulates all kernel code, for want of "
                  "hardware virtualization, Linux cannot run: see mayfly doctor)",
                  bytes.empty() ? "" : " ", bytes));
}

std::string describe_failed_entry(const Vcpu& vcpu, const GuestMemory& memory) {
  const auto& failure = vcpu.run_area().fail_entry;
  return report(vcpu, memory,
                fmt::format("the CPU refused to enter the guest: hardware reason {:#x}",
                            static_cast<std::uint64_t>(failure.hardware_entry_failure_reason)));
}

std::string describe_triple_fault(const Vcpu& vcpu) {
  return fmt::format("vCPU {}: triple fault (shutdown); {}", vcpu.index(), describe_registers(vcpu));
}

std::string describe_unexpected_exit(const Vcpu& vcpu, const GuestMemory& memory) {
  return report(vcpu, memory,
                fmt::format("KVM_RUN ended for reason {}, which Mayfly does not serve,", vcpu.run_area().exit_reason));
}

std::string describe_run_failure(const Vcpu& vcpu, const GuestMemory& memory, int error_number) {
  return report(vcpu, memory, fmt::format("KVM_RUN failed: {}", errno_text(error_number)));
}

}  // namespace mayfly
