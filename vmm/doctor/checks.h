#pragma once

#include "vmm/doctor/finding.h"
#include "vmm/doctor/host.h"

/// The checks, by what they look at. Each appends what it found, in a fixed order; a fact that the host does not show
/// is left out, unless its absence is itself the finding. A figure in a cost says where it was measured: "here" is the
/// host that Mayfly is developed on, "on peers" is what users of other monitors published.
namespace mayfly::doctor {

/// /dev/kvm, its API and capabilities, the settings of the kvm module.
void check_kvm(const HostRoot& root, const HostCalls& calls, Findings& findings);

/// Virtualization in the CPU, nesting, clock source, frequency, sibling threads, known weaknesses.
void check_processor(const HostRoot& root, Findings& findings);

/// The kernel's version, control groups, io_uring, limits, what the jailer needs, and core dumps.
void check_kernel(const HostRoot& root, const HostCalls& calls, Findings& findings);

/// Huge pages, swap, overcommit, page merging, user faults.
void check_memory(const HostRoot& root, const HostCalls& calls, Findings& findings);

}  // namespace mayfly::doctor
