#pragma once

#include "tests/host-agent/function.h"
#include "vmm/base/error.h"

#include <string>

/// A snapshot of a machine whose function is ready: booted once, continued by every clone.
///
///   auto snapshot = make_snapshot(function, {...});
///   monitor.api().request("PUT", "/snapshot/load", snapshot->load_request({.resumes = true}));
namespace mayfly::host_agent {

struct FunctionSnapshot {
  struct Load {
    bool resumes = true;      ///< The machine goes on at once.
    bool revertible = false;  ///< It can go back to the snapshot.
  };
  std::string state;
  std::string memory;

  [[nodiscard]] static FunctionSnapshot in(const std::string& directory);
  /// The body that has a machine take it, paused or running; a live one is of a machine that runs, and goes on.
  [[nodiscard]] std::string create_request(bool live) const;
  [[nodiscard]] std::string load_request(const Load& how) const;
};

/// Boots the function, takes the snapshot into the directory and ends the machine. On a thread of its own. Errors: those
/// of boot_function().
[[nodiscard]] Result<FunctionSnapshot> make_snapshot(const Function& function, const BootOptions& options);

}  // namespace mayfly::host_agent
