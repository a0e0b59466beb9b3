#include "vmm/cli/clone_options.h"

#include "vmm/base/printable.h"
#include "vmm/base/text.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace mayfly {
namespace {

constexpr std::uint32_t kLargestUser = 0xFFFF'FFFE;

/// Under the jailer's own names.
void add_jail_limits(CLI::App& app, UpFlags& flags) {
  app.add_option("--cgroup", flags.cgroups,
                 "File of the jail's cgroup, and what to write, such\nas memory.max=512M; repeat it")
      ->option_text("FILE=VALUE")
      ->allow_extra_args(false);
  app.add_option("--cgroup-version", flags.cgroup_version, "1 or 2 (default: 1)")
      ->option_text("NUMBER")
      ->check(CLI::IsMember({"1", "2"}));
  app.add_option("--parent-cgroup", flags.options.parent_cgroup, "Cgroup above the jail's (default: mayfly)")
      ->option_text("PATH");
  app.add_option("--resource-limit", flags.resource_limits,
                 "fsize=BYTES: its largest file;\nno-file=COUNT: open files; repeat it")
      ->option_text("RESOURCE=VALUE")
      ->allow_extra_args(false);
}

void add_id(CLI::App& app, std::string& id) {
  app.add_option("machine", id, "Its id (see mayfly ps)")->option_text("ID REQUIRED")->required();
}

}  // namespace

void add_bases(CLI::App& app, CloneBases& bases, std::string_view of_jails) {
  app.add_option("--jail-base", bases.jail_base, fmt::format("{} (default: {})", of_jails, bases.jail_base))
      ->option_text("DIRECTORY");
  app.add_option(
         "--run-dir", bases.run_directory,
         "Where its files are without a jail (default:\n$MAYFLY_RUN_DIR, /run/mayfly for root, or the\nuser's own)")
      ->option_text("DIRECTORY")
      ->envname("MAYFLY_RUN_DIR");
}

void add_up(CLI::App& app, UpFlags& flags) {
  UpOptions& options = flags.options;
  app.add_option("template", options.directory, "What mayfly-template build has made")
      ->option_text("TEMPLATE REQUIRED")
      ->required();
  app.add_option("--id", options.id, "Name of the machine (default: the template's and\na number)")->option_text("ID");
  app.add_option("--metadata", options.metadata, "JSON file with metadata for the guest")->option_text("FILE");
  app.add_flag("--no-jail", flags.no_jail, "Without a jail, which takes root (default: a jail\nfor root)");
  app.add_option("--uid", flags.user, "User and group of the jail (default: one of its\nown)")->option_text("NUMBER");
  add_bases(app, options.bases, "Where jails are made; on the file system of the\ntemplate");
  add_jail_limits(app, flags);
  app.add_option("--max-output", options.max_output_kib,
                 fmt::format("KiB that its console, and its log, may take; the\nnewest stay (default: {})",
                             options.max_output_kib))
      ->option_text("KIB")
      ->check(CLI::Range(128U, 1U << 30));
  app.add_option("--patience", options.patience_s, "Seconds until it answers")
      ->capture_default_str()
      ->check(CLI::Range(1U, 86'400U));
}

Result<UpOptions> up_options(const UpFlags& flags) {
  UpOptions options = flags.options;
  options.no_jail = flags.no_jail;
  const auto pass_on = [&options](const char* name, const std::string& value) {
    options.jailer_words.insert(options.jailer_words.end(), {name, value});
  };
  for (const std::string& each : flags.cgroups) pass_on("--cgroup", each);
  if (!flags.cgroup_version.empty()) pass_on("--cgroup-version", flags.cgroup_version);
  for (const std::string& each : flags.resource_limits) pass_on("--resource-limit", each);
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
  app.add_option("--timeout", options.timeout_s, "Seconds until it is killed; the guest has all but\nthe last two")
      ->capture_default_str()
      ->check(CLI::Range(1U, 86'400U));
  add_bases(app, options.bases);
}

void add_logs(CLI::App& app, LogsOptions& options) {
  add_id(app, options.machine);
  app.add_flag("-f,--follow", options.follow, "Go on until the machine ends");
  add_bases(app, options.bases);
}

}  // namespace mayfly
