#include "jailer/arguments.h"

#include "jailer/directories.h"
#include "vmm/base/text.h"

#include <algorithm>
#include <limits>

#include <CLI/CLI.hpp>

namespace mayfly::jailer {
namespace {

bool is_letter_or_digit(char letter) noexcept {
  return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') || (letter >= '0' && letter <= '9');
}

/// What CLI11 fills and cannot fill in place.
struct Flags {
  std::string uid, gid, netns, parent_cgroup;
  std::vector<std::string> cgroups, limits;
};

void add_jail(CLI::App& app, JailArguments& jail, Flags& flags) {
  app.add_option("--id", jail.id, "Name of the machine: 1 to 64 letters, digits\nand hyphens")->option_text("ID");
  app.add_option("--exec-file", jail.exec_file, "The monitor: a static executable")->option_text("FILE");
  app.add_option("--uid", flags.uid, "User of the monitor, a number")->option_text("UID");
  app.add_option("--gid", flags.gid, "Group of the monitor, a number")->option_text("GID");
  app.add_option("--chroot-base-dir", jail.base, "Where jails are made:\nBASE/NAME OF EXEC FILE/ID/root")
      ->capture_default_str();
  app.add_option("--netns", flags.netns, "Network namespace to join, such as\n/run/netns/NAME")->option_text("FILE");
  app.add_flag("--daemonize", jail.daemonize, "New session; standard streams are /dev/null");
  app.add_flag("--new-pid-ns", jail.new_pid_ns, "The monitor is process 1 of a new PID namespace");
  app.add_flag("--allow-userfaultfd", jail.allow_userfaultfd,
               "The jail has /dev/userfaultfd: for page servers\nand to record working sets");
  app.add_option("--cgroup", flags.cgroups, "File of the machine's cgroup, and what to write;\nrepeat it for more")
      ->option_text("FILE=VALUE")
      ->allow_extra_args(false);
  app.add_option("--cgroup-version", jail.cgroups.version, "1 or 2")
      ->check(CLI::IsMember({1, 2}))
      ->capture_default_str();
  app.add_option("--parent-cgroup", flags.parent_cgroup, "Cgroup above the machine's (default: the exec\nfile's name)")
      ->option_text("PATH");
  app.add_option("--resource-limit", flags.limits,
                 "fsize=BYTES: the largest file;\n"
                 "no-file=COUNT: open files (default: 2048);\n"
                 "repeat it for more")
      ->option_text("RESOURCE=VALUE")
      ->allow_extra_args(false);
}

void add_cleanup(CLI::App& app, CleanupArguments& cleanup, Flags& flags) {
  app.add_option("id", cleanup.id, "Name of the machine")->option_text("ID REQUIRED")->required();
  app.add_option("--exec-file", cleanup.exec_name,
                 "The monitor that it was made for; its name counts\n(default: mayfly)")
      ->option_text("FILE");
  app.add_option("--chroot-base-dir", cleanup.base, "Where the jail was made")->capture_default_str();
  app.add_option("--parent-cgroup", flags.parent_cgroup, "As it was given for the jail")->option_text("PATH");
}

Status need(std::string_view flag, bool given) {
  if (given) return {};
  return fail(ErrorKind::InvalidArgument, "{} is missing; see mayfly-jailer --help", flag);
}

Status check_id(std::string_view field, std::string_view id) {
  if (is_id(id)) return {};
  return fail(ErrorKind::InvalidArgument, "{} '{}' must have 1 to 64 letters, digits and hyphens", field, id);
}

Status read_numbers(const Flags& flags, JailArguments& jail) {
  auto uid = parse_user_number("--uid", flags.uid);
  if (!uid) return propagate(uid);
  auto gid = parse_user_number("--gid", flags.gid);
  if (!gid) return propagate(gid);
  jail.uid = *uid;
  jail.gid = *gid;
  for (const std::string& text : flags.limits)
    if (auto read = parse_resource_limit(text, jail.limits); !read) return read;
  return {};
}

/// An empty value is a mistake, such as a variable that is not set: as "not given" it would mean a default that the
/// caller did not ask for.
Result<std::optional<std::string>> read_parent_cgroup(const CLI::App& app, const Flags& flags) {
  if (app.count("--parent-cgroup") == 0) return std::nullopt;
  if (auto good = check_parent_cgroup(flags.parent_cgroup); !good) return propagate(good);
  return flags.parent_cgroup;
}

Result<std::optional<std::string>> read_netns(const CLI::App& app, const Flags& flags) {
  if (app.count("--netns") == 0) return std::nullopt;
  if (flags.netns.empty())
    return fail(ErrorKind::InvalidArgument, "--netns '' must be a file, such as /run/netns/NAME");
  return flags.netns;
}

/// A jail's flags before `cleanup` would not be heeded, and another jail than the one that was meant removed.
Status refuse_flags_before_cleanup(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options())
    if (option->count() > 0)
      return fail(ErrorKind::InvalidArgument,
                  "{} stands before cleanup, where it has no effect; see mayfly-jailer cleanup --help for what belongs "
                  "after it",
                  option->get_name());
  return {};
}

Result<Invocation> jail_of(JailArguments jail, const Flags& flags, const CLI::App& app) {
  for (const auto& [flag, given] :
       {std::pair{"--id", !jail.id.empty()}, std::pair{"--exec-file", !jail.exec_file.empty()},
        std::pair{"--uid", !flags.uid.empty()}, std::pair{"--gid", !flags.gid.empty()}})
    if (auto there = need(flag, given); !there) return propagate(there);
  if (auto good = check_id("--id", jail.id); !good) return propagate(good);
  if (auto read = read_numbers(flags, jail); !read) return propagate(read);
  for (const std::string& text : flags.cgroups) {
    auto setting = parse_cgroup_setting(text);
    if (!setting) return propagate(setting);
    jail.cgroups.settings.push_back(std::move(*setting));
  }
  auto parent = read_parent_cgroup(app, flags);
  if (!parent) return propagate(parent);
  jail.cgroups.parent = std::move(*parent);
  auto netns = read_netns(app, flags);
  if (!netns) return propagate(netns);
  jail.netns = std::move(*netns);
  return jail;
}

Result<Invocation> cleanup_of(CleanupArguments cleanup, const Flags& flags, const CLI::App& app) {
  if (auto good = check_id("the id", cleanup.id); !good) return propagate(good);
  cleanup.exec_name = last_name(cleanup.exec_name);
  if (!is_file_name(cleanup.exec_name))
    return fail(ErrorKind::InvalidArgument, "--exec-file must end with the name of a file");
  auto parent = read_parent_cgroup(app, flags);
  if (!parent) return propagate(parent);
  cleanup.parent_cgroup = std::move(*parent);
  return cleanup;
}

}  // namespace

bool is_id(std::string_view text) noexcept {
  return !text.empty() && text.size() <= 64 &&
         std::ranges::all_of(text, [](char letter) { return is_letter_or_digit(letter) || letter == '-'; });
}

Result<std::uint32_t> parse_user_number(std::string_view field, std::string_view text) {
  const auto number = whole_number<std::uint64_t>(text);
  if (!number || *number >= std::numeric_limits<std::uint32_t>::max())
    return fail(ErrorKind::InvalidArgument, "{} '{}' must be a number from 0 to 4294967294 (names are not looked up)",
                field, text);
  return static_cast<std::uint32_t>(*number);
}

Result<CgroupSetting> parse_cgroup_setting(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string_view file = text.substr(0, equals);
  const auto is_of_name = [](char letter) {
    return is_letter_or_digit(letter) || letter == '.' || letter == '_' || letter == '-';
  };
  const std::size_t point = file.find('.');
  if (equals == std::string_view::npos || equals + 1 == text.size() || point == 0 || point == std::string_view::npos ||
      !std::ranges::all_of(file, is_of_name))
    return fail(ErrorKind::InvalidArgument, "--cgroup '{}' must be CONTROLLER.FILE=VALUE, such as cpuset.cpus=0-3",
                text);
  return CgroupSetting{.file = std::string{file}, .value = std::string{text.substr(equals + 1)}};
}

Status parse_resource_limit(std::string_view text, ResourceLimits& limits) {
  const std::size_t equals = std::min(text.find('='), text.size());
  const std::string_view resource = text.substr(0, equals);
  if (resource != "fsize" && resource != "no-file")
    return fail(ErrorKind::InvalidArgument, "--resource-limit '{}' must be fsize=BYTES or no-file=COUNT", text);
  const auto number = whole_number<std::uint64_t>(text.substr(std::min(equals + 1, text.size())));
  if (!number)
    return fail(ErrorKind::InvalidArgument, "--resource-limit '{}' needs a number after {}=", text, resource);
  if (resource == "fsize")
    limits.file_size = number;
  else
    limits.open_files = *number;
  return {};
}

Status check_parent_cgroup(std::string_view path) {
  for (const std::string_view name : names_of(path))
    if (!is_file_name(name))
      return fail(ErrorKind::InvalidArgument,
                  "--parent-cgroup '{}' must be a path below the hierarchy's mount, without '.' and '..'", path);
  return {};
}

Result<Invocation> parse_jailer_arguments(int argc, const char* const* argv) {
  // What stands after "--" is not ours to understand.
  const char* const* const end = argv + argc;
  const char* const* const dashes = std::find(argv, end, std::string_view{"--"});

  CLI::App app{
      "Runs a monitor in a jail: in a root directory of its own, without privileges,\nas a user of its own. "
      "The monitor's own arguments follow after --",
      "mayfly-jailer"};
  app.set_version_flag("--version", "Mayfly jailer v" MAYFLY_VERSION);
  JailArguments jail;
  Flags flags;
  add_jail(app, jail, flags);
  CleanupArguments cleanup;
  CLI::App& cleanup_app = *app.add_subcommand("cleanup", "Remove the jail that an ended monitor left");
  add_cleanup(cleanup_app, cleanup, flags);
  try {
    app.parse(static_cast<int>(dashes - argv), argv);
  } catch (const CLI::CallForHelp&) {
    return PrintText{app.help()};
  } catch (const CLI::CallForVersion& version) {
    return PrintText{std::string{version.what()} + "\n"};
  } catch (const CLI::ExtrasError&) {
    return fail(ErrorKind::InvalidArgument,
                "there is no option or command {}; the monitor's own follow after -- (see mayfly-jailer --help)",
                app.remaining(true).front());
  } catch (const CLI::ParseError& error) {
    return fail(ErrorKind::InvalidArgument, "{} (see mayfly-jailer --help)", error.what());
  }
  if (cleanup_app.parsed()) {
    if (auto alone = refuse_flags_before_cleanup(app); !alone) return propagate(alone);
    return cleanup_of(std::move(cleanup), flags, cleanup_app);
  }
  if (dashes != end) jail.monitor.assign(dashes + 1, end);
  return jail_of(std::move(jail), flags, app);
}

}  // namespace mayfly::jailer
