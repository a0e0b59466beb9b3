#include "vmm/doctor/doctor.h"

#include "vmm/base/error.h"
#include "vmm/doctor/checks.h"

#include <algorithm>
#include <cerrno>

namespace mayfly {
namespace {

/// The TUN device.
void check_network(const HostRoot& root, const HostCalls& calls, Findings& findings) {
  constexpr std::string_view kDevice = "dev/net/tun";
  const int error = root.exists(kDevice) ? calls.try_open(root.path(kDevice)) : ENOENT;
  if (error == 0) {
    findings.push_back({Severity::Ok, "tun", "/dev/net/tun can be opened", "", ""});
    return;
  }
  const bool absent = error == ENOENT || error == ENODEV || error == ENXIO;
  findings.push_back({Severity::Note, "tun", fmt::format("/dev/net/tun cannot be opened: {}", errno_text(error)),
                      "machines with network interfaces do not start",
                      absent ? "modprobe tun" : "chmod 666 /dev/net/tun, or setfacl -m u:USER:rw /dev/net/tun"});
}

}  // namespace

Findings examine_host(const HostRoot& root, const HostCalls& calls) {
  Findings findings;
  doctor::check_kvm(root, calls, findings);
  doctor::check_processor(root, findings);
  doctor::check_kernel(root, calls, findings);
  doctor::check_memory(root, calls, findings);
  check_network(root, calls, findings);
  return findings;
}

bool can_run(const Findings& findings) noexcept {
  return std::ranges::none_of(findings, [](const Finding& finding) { return finding.severity == Severity::Broken; });
}

int print_findings(const Findings& findings, bool json, std::FILE* out) {
  const std::string report = json ? report_json(findings) : report_text(findings);
  const bool printed = std::fwrite(report.data(), 1, report.size(), out) == report.size() && std::fflush(out) != EOF;
  if (!printed) std::fputs("mayfly: standard output cannot be written to\n", stderr);
  return printed && can_run(findings) ? 0 : 1;
}

int run_doctor(bool json, std::FILE* out) {
  return print_findings(examine_host(HostRoot{}, real_host_calls()), json, out);
}

}  // namespace mayfly
