#pragma once

#include "api/client/deadline.h"
#include "api/client/monitor_process.h"
#include "tests/host-agent/clone_network.h"
#include "vmm/base/error.h"
#include "vmm/base/json_writer.h"

#include <poll.h>

#include <string>
#include <vector>

/// A function: a guest that answers HTTP at guest_address().
///
///   auto network = CloneNetwork::enter(1);
///   auto monitor = boot_function(function, {...}, *network);   // it answers
namespace mayfly::host_agent {

struct Function {
  std::string kernel;
  std::string initrd;  ///< Empty: none.
  std::string boot_args = "console=ttyS0";
  unsigned memory_mib = 128;
  std::string ready_path = "/";  ///< Asked for until there is an answer, so clones have been through it once.
};

/// The guest's network interface, as its monitor calls it.
inline constexpr const char* kGuestInterface = "eth0";

struct BootOptions {
  std::string monitor;    ///< The `mayfly` binary.
  std::string directory;  ///< For its socket.
  std::string id;
  std::vector<std::string> more{};  ///< Further arguments of the monitor.
  Deadline deadline;                ///< By when the function must have answered.
  pollfd stop;                      ///< What happens where it shall be given up.
};

/// What a machine's metadata say: the guest asks them who it is.
void write_metadata(JsonWriter& json, const std::string& id);
[[nodiscard]] Status tell_who_it_is(const MonitorProcess& monitor, const std::string& id);

/// Boots it at the network's first TAP and waits until it answers; its console goes to standard error. Errors: what the
/// monitor says; the machine ended; it does not answer.
[[nodiscard]] Result<MonitorProcess> boot_function(const Function& function, const BootOptions& options,
                                                   const CloneNetwork& network);

}  // namespace mayfly::host_agent
