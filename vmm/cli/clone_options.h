#pragma once

#include "vmm/cli/options.h"

#include <optional>
#include <string>

namespace CLI {
class App;
}

/// The options of clones of templates.
namespace mayfly {

struct UpFlags {
  UpOptions options;
  bool no_jail = false;
  std::string user;
};

/// Where jails of clones are looked for.
void add_jail_base(CLI::App& app, std::string& base);
void add_up(CLI::App& app, UpFlags& flags);
/// Errors: the user is no number.
[[nodiscard]] Result<UpOptions> up_options(const UpFlags& flags);
void add_down(CLI::App& app, DownOptions& options);
void add_logs(CLI::App& app, LogsOptions& options);

}  // namespace mayfly
