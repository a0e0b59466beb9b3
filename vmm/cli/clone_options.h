#pragma once

#include "vmm/cli/options.h"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

/// The options of clones of templates.
namespace mayfly {

struct UpFlags {
  UpOptions options;
  bool no_jail = false;
  std::string user;
  std::vector<std::string> cgroups;
  std::string cgroup_version;
  std::vector<std::string> resource_limits;
};

/// --jail-base, which `of_jails` describes, and --run-dir: where clones are looked for.
void add_bases(CLI::App& app, CloneBases& bases, std::string_view of_jails = "Where jails are");
void add_up(CLI::App& app, UpFlags& flags);
/// Errors: the user is no number; limits without a jail.
[[nodiscard]] Result<UpOptions> up_options(const UpFlags& flags);
void add_down(CLI::App& app, DownOptions& options);
void add_logs(CLI::App& app, LogsOptions& options);

}  // namespace mayfly
