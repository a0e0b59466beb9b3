#pragma once

#include "vmm/doctor/finding.h"
#include "vmm/doctor/host.h"

#include <cstdio>
#include <string>

/// `mayfly doctor`: looks at the host, and says of each thing that matters what was found, what it costs and how to
/// mend it. Changes nothing.
///
///   const Findings findings = examine_host(HostRoot{}, real_host_calls());
///   std::fputs(report_text(findings).c_str(), stdout);
namespace mayfly {

/// Makes all checks. Takes some milliseconds; opens devices and closes them again.
[[nodiscard]] Findings examine_host(const HostRoot& root, const HostCalls& calls);

/// Whether Mayfly can run machines: nothing is broken.
[[nodiscard]] bool can_run(const Findings& findings) noexcept;

/// For people: the worst first, and a summary at the end.
[[nodiscard]] std::string report_text(const Findings& findings);

/// For programs: {"can_run": ..., "findings": [{"check", "severity", "found", "cost", "remedy"}, ...]}, in the order of
/// the checks; cost and remedy are null where there is none.
[[nodiscard]] std::string report_json(const Findings& findings);

/// Prints a report to `out`. 0 when Mayfly can run; 1 when something is broken, or the report was not written (a full disk, a
/// reader who went away).
[[nodiscard]] int print_findings(const Findings& findings, bool json, std::FILE* out);

/// The whole command on this host.
[[nodiscard]] int run_doctor(bool json, std::FILE* out);

}  // namespace mayfly
