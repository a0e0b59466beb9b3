#pragma once

#include "vmm/kvm/vcpu.h"

#include <array>

/// The model-specific registers that a kernel expects to find set at its entry, as firmware would have left them.
namespace mayfly {

/// Optional ones are those that some KVM flavours do not have; a kernel then finds KVM's reset value.
inline constexpr std::array kBootMsrs = {
    // IA32_MISC_ENABLE: fast strings on (bit 0).
    MsrValue{.index = 0x1A0, .value = 1, .optional = true},
    // IA32_MTRR_DEF_TYPE: MTRRs on (bit 11), all memory write-back (6): else a kernel takes RAM for uncacheable.
    MsrValue{.index = 0x2FF, .value = 0x806, .optional = true},
};

}  // namespace mayfly
