#pragma once

#include "vmm/kvm/vcpu.h"
#include "vmm/memory/guest_memory.h"

#include <string>

/// One line about a vCPU that cannot go on: what KVM said, where it stood, the instruction's bytes, the registers.
/// On the vCPU's own thread, after KVM_RUN returned.
namespace mayfly {

[[nodiscard]] std::string describe_internal_error(const Vcpu& vcpu, const GuestMemory& memory);
[[nodiscard]] std::string describe_failed_entry(const Vcpu& vcpu, const GuestMemory& memory);
[[nodiscard]] std::string describe_triple_fault(const Vcpu& vcpu);
[[nodiscard]] std::string describe_unexpected_exit(const Vcpu& vcpu, const GuestMemory& memory);
[[nodiscard]] std::string describe_run_failure(const Vcpu& vcpu, const GuestMemory& memory, int error_number);

}  // namespace mayfly
