#pragma once

#include "api/json_reader.h"
#include "vmm/base/json_writer.h"
#include "vmm/config/configuration.h"

/// JSON of CPU templates: which bits of CPUID leaves and MSRs a guest sees changed.
///
///   {"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0,
///                         "modifiers": [{"register": "ecx", "bitmap": "0bxxxx_0"}]}],
///    "msr_modifiers": [{"addr": "0x10a", "bitmap": "0b1x"}], "kvm_capabilities": ["!56"]}
///
/// In a bitmap 0 clears, 1 sets, x leaves; the last character is bit 0, bits beyond the first are left, underscores are
/// for the eye. Addresses are strings in hexadecimal (0x), binary (0b) or decimal.
namespace mayfly {

/// Errors: as for every reader, and the fields that only 64-bit Arm has, unless they are empty.
[[nodiscard]] Result<CpuConfig> read_cpu_config(const JsonValue& json, const std::string& where);

/// The same template, bitmaps in full length. Edits that follow each other on one leaf are written as one modifier.
void write_cpu_config(JsonWriter& json, const CpuConfig& config);

}  // namespace mayfly
