#pragma once

#include "vmm/base/error.h"

#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

/// What the command line does with machines that run in other processes, by their API: `mayfly ps`, `mayfly pause ID`
/// and so on. `machine` is an id, a process or the path of a socket (see find_machine()). What there is to say goes to
/// `out`.
namespace mayfly {

/// A line a machine: id, process, its user, state, socket.
[[nodiscard]] Status list_machines(std::FILE* out);

[[nodiscard]] Status pause_machine(const std::string& machine);
[[nodiscard]] Status resume_machine(const std::string& machine);

struct RemoteRevert {
  std::string machine;
  bool paused = false;         ///< It waits paused; else it runs on.
  bool clock_realtime = true;  ///< The guest's clock goes ahead by the time since the snapshot.
};
/// Back to the snapshot that it was loaded from.
[[nodiscard]] Status revert_machine(const RemoteRevert& revert);

struct RemoteSnapshot {
  std::string machine;
  std::string state;  ///< Paths may be relative to this process's directory, and are UTF-8: other ones are refused.
  std::string memory;
  bool diff = false;
  /// A drive that keeps its image, and the file where that is from then on.
  struct Frozen {
    std::string drive;
    std::string file;
  };
  bool live = false;
  std::optional<std::uint64_t> max_copied_mib{};  ///< Of a live one.
  std::vector<Frozen> frozen{};
};
/// A running machine is paused meanwhile, and resumed whether or not the snapshot succeeds; but for a live one, which
/// stands still for a moment. How far a live one has come is shown where standard error is a terminal.
[[nodiscard]] Status snapshot_machine(const RemoteSnapshot& snapshot);

struct RemoteBranch {
  std::string machine;
  unsigned children = 1;
  std::string name{};  ///< Children are NAME-1, NAME-2 ...; empty: the machine's id.
  /// TAPs of network interfaces, the first child's first.
  struct Tap {
    std::string interface;
    std::string tap;
    std::string mac{};  ///< Empty: the address that the machine has.
  };
  std::vector<Tap> taps{};
};
/// Prints a line a child: id, process, socket. Numbers of machines that run are left out. Sockets are beside the
/// machine's, new overlays, and sockets of channels that listen, beside its own. Errors: a TAP too many or too few; the
/// machine's; children that did not come up.
[[nodiscard]] Status branch_machine(const RemoteBranch& branch, std::FILE* out);

struct RemoteStop {
  std::string machine;
  bool now = false;         ///< Ends the monitor, without asking the guest.
  unsigned timeout_s = 30;  ///< For the answer and the guest together.
};
/// Presses Ctrl-Alt-Del, resumes the machine if it is paused, so that its guest sees it, and waits for the end of the process.
/// Errors: the guest does not listen, or takes too long.
[[nodiscard]] Status stop_machine(const RemoteStop& stop);

/// GET /vm/config as it comes, a line; on a terminal, without control characters.
[[nodiscard]] Status print_config(const std::string& machine, std::FILE* out);
/// Prometheus text, likewise.
[[nodiscard]] Status print_metrics(const std::string& machine, std::FILE* out);

}  // namespace mayfly
