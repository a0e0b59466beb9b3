#pragma once

#include "snapshot/snapshot.h"

#include <string>

/// A snapshot for people and programs to look at.
namespace mayfly {

/// JSON, one object: "format", then everything that the state file holds, in its order and as visit.h names it; what is
/// not there is left out. Registers, addresses, MSRs and CPUID as hexadecimal numbers in text; bytes, and those
/// of KVM's structures that nobody reads by eye, as hexadecimal digits in the order in which they lie in memory. Any
/// thread.
[[nodiscard]] std::string describe_snapshot(const Snapshot& snapshot);

}  // namespace mayfly
