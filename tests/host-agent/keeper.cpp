#include "tests/host-agent/keeper.h"

#include "tests/host-agent/hand_over.h"
#include "vmm/base/try.h"

#include <cstdio>
#include <utility>

namespace mayfly::host_agent {
namespace {

using std::chrono_literals::operator""s;

/// More than a guest on a busy host needs to accept a connection.
constexpr auto kConnectPatience = 10s;

}  // namespace

void report_no_clone(const Error& error) { std::fprintf(stderr, "host_agent: no clone: %s\n", error.message.c_str()); }

Result<Clone> make_ready(MonitorProcess monitor, OwnedFd socket, const ClonePool& pool) {
  const auto connected = connect_to_function({.connection = socket.get(),
                                              .machine = monitor.pidfd(),
                                              .asker = pool.end(),
                                              .deadline = Deadline::clock::now() + kConnectPatience});
  if (!connected) return fail(ErrorKind::Guest, "the function of a clone does not accept a connection");
  TRY(monitor.api().request("PATCH", "/vm", R"({"state": "Paused"})"));
  return Clone{
      .monitor = std::move(monitor), .connection = std::move(socket), .start = Clone::resume(), .is_connected = true};
}

}  // namespace mayfly::host_agent
