#include "vmm/doctor/doctor.h"

#include "vmm/doctor/checks.h"

#include <algorithm>

namespace mayfly {

Findings examine_host(const HostRoot& root, const HostCalls& calls) {
  Findings findings;
  doctor::check_kvm(root, calls, findings);
  doctor::check_processor(root, findings);
  doctor::check_kernel(root, calls, findings);
  doctor::check_memory(root, calls, findings);
  doctor::check_network(root, calls, findings);
  return findings;
}

bool can_run(const Findings& findings) noexcept {
  return std::ranges::none_of(findings, [](const Finding& finding) { return finding.severity == Severity::Broken; });
}

int run_doctor(bool json, std::FILE* out) {
  const Findings findings = examine_host(HostRoot{}, real_host_calls());
  const std::string report = json ? report_json(findings) : report_text(findings);
  std::fwrite(report.data(), 1, report.size(), out);
  return can_run(findings) ? 0 : 1;
}

}  // namespace mayfly
