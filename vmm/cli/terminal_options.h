#pragma once

#include "vmm/cli/options.h"

#include <string>
#include <vector>

namespace CLI {
class App;
}

/// The options of machines on a terminal, and the commands that they stand for.
namespace mayfly {

/// For a person at a terminal: unlike the default, without `8250.nr_uarts=0` and `nomodule`, and with a console.
constexpr const char* kRunBootArgs =
    "console=ttyS0 reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";

/// The options of `mayfly run`.
struct RunFlags {
  BootSource source;
  MachineConfig machine;
  std::string boot_args = kRunBootArgs;
  std::string append;
  std::string initrd;
  std::vector<std::string> drives;
  std::vector<std::string> nets;
  std::vector<std::string> channels;
  std::string api_sock;
  ApiLimits limits;
};

void add_run(CLI::App& app, RunFlags& flags);
/// Those that configure and start the machine. Fails with the option, its value and what is wrong with it.
[[nodiscard]] Result<std::vector<Command>> run_commands(RunFlags& flags);

/// The options of `mayfly restore`.
struct RestoreFlags {
  SnapshotLoadParams load;
  std::vector<std::string> memory;
  std::string page_server;
  std::vector<std::string> taps;
  std::vector<std::string> drives;
  std::vector<std::string> bases;
  std::vector<std::string> channels;
  bool trust_paths = false;
  std::string record_working_set;
  std::string working_set;
  std::string api_sock;
  ApiLimits limits;
};

void add_restore(CLI::App& app, RestoreFlags& flags);
/// The one that loads the snapshot and goes on. Fails as run_commands does.
[[nodiscard]] Result<std::vector<Command>> restore_commands(RestoreFlags& flags);

}  // namespace mayfly
