#include "vmm/base/error.h"
#include "vmm/doctor/checks.h"

#include <cerrno>

namespace mayfly::doctor {

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

}  // namespace mayfly::doctor
