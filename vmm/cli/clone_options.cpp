#include "vmm/cli/clone_options.h"

#include "vmm/base/printable.h"
#include "vmm/base/text.h"

#include <CLI/CLI.hpp>

namespace mayfly {
namespace {

constexpr std::uint32_t kLargestUser = 0xFFFF'FFFE;

void add_id(CLI::App& app, std::string& id) {
  app.add_option("machine", id, "Its id (see mayfly ps)")->option_text("ID REQUIRED")->required();
}

}  // namespace

void add_jail_base(CLI::App& app, std::string& base) {
  app.add_option("--jail-base", base, "Where its jail is; on the file system of the\ntemplate")
      ->option_text("DIRECTORY")
      ->capture_default_str();
}

void add_up(CLI::App& app, UpFlags& flags) {
  UpOptions& options = flags.options;
  app.add_option("template", options.directory, "What mayfly-template build has made")
      ->option_text("TEMPLATE REQUIRED")
      ->required();
  app.add_option("--id", options.id, "Name of the machine (default: the template's and\na number)")->option_text("ID");
  app.add_option("--metadata", options.metadata, "JSON file with metadata for the guest")->option_text("FILE");
  app.add_flag("--no-jail", flags.no_jail, "Without a jail, which takes root (default: a jail\nfor root)");
  app.add_option("--uid", flags.user, "User and group of the jail (default: one of its own)")->option_text("NUMBER");
  add_jail_base(app, options.jail_base);
  app.add_option("--patience", options.patience_s, "Seconds until it answers")
      ->capture_default_str()
      ->check(CLI::Range(1U, 86'400U));
}

Result<UpOptions> up_options(const UpFlags& flags) {
  UpOptions options = flags.options;
  options.no_jail = flags.no_jail;
  if (flags.user.empty()) return options;
  options.user = whole_number<std::uint32_t>(flags.user);
  if (!options.user || *options.user == 0 || *options.user > kLargestUser)
    return fail(ErrorKind::InvalidArgument, "--uid '{}' must be a user's number from 1 to {}",
                printable(flags.user, kLongestShownName), kLargestUser);
  return options;
}

void add_down(CLI::App& app, DownOptions& options) {
  add_id(app, options.machine);
  app.add_flag("--now", options.now, "End it without asking its guest");
  app.add_option("--timeout", options.timeout_s, "Seconds for the guest; then it is ended")
      ->capture_default_str()
      ->check(CLI::Range(1U, 86'400U));
  add_jail_base(app, options.jail_base);
}

void add_logs(CLI::App& app, LogsOptions& options) {
  add_id(app, options.machine);
  app.add_flag("-f,--follow", options.follow, "Go on until the machine ends");
  add_jail_base(app, options.jail_base);
}

}  // namespace mayfly
