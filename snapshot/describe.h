#pragma once

#include "snapshot/memory_chain.h"
#include "snapshot/snapshot.h"

#include <span>
#include <string>

/// A snapshot for people and programs to look at.
namespace mayfly {

/// JSON, one object: "format", then everything that the state file holds, in its order and as visit.h names it; what is
/// not there is left out. Registers, addresses, MSRs and CPUID as hexadecimal numbers in text; bytes, and those
/// of KVM's structures that nobody reads by eye, as hexadecimal digits in the order in which they lie in memory. Any
/// thread.
///
/// `layers`: those of the memory, the lowest first, as "memory_layers", which a description without them lacks.
[[nodiscard]] std::string describe_snapshot(const Snapshot& snapshot, std::span<const LayerSummary> layers = {});

}  // namespace mayfly
