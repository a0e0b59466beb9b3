#pragma once

#include "vmm/base/error.h"

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/// The `mayfly-jailer` binary's command line, in the dialect of existing jailers.
///
///   auto invocation = parse_jailer_arguments(argc, argv);
///   if (!invocation) return report(invocation.error());
///   if (const auto* jail = std::get_if<JailArguments>(&*invocation)) ...
///
/// What is checked here needs no look at the host: ids, numbers, and that no name can leave its directory.
namespace mayfly::jailer {

inline constexpr const char* kDefaultBase = "/srv/jailer";

/// `--cgroup FILE=VALUE`, such as cpu.max=50000 100000.
struct CgroupSetting {
  std::string file;
  std::string value;

  /// What stands before the point: "cpu"; "cgroup" for files that every cgroup has.
  [[nodiscard]] std::string controller() const { return file.substr(0, file.find('.')); }
};

struct CgroupArguments {
  int version = 1;
  std::vector<CgroupSetting> settings;
  std::optional<std::string> parent;  ///< Below the hierarchy's mount; none: the executable's name.
};

/// `--resource-limit`; file_size in bytes, open_files as in RLIMIT_NOFILE.
struct ResourceLimits {
  std::optional<std::uint64_t> file_size;
  std::uint64_t open_files = 2048;
};

struct JailArguments {
  std::string id;
  std::string exec_file;
  uid_t uid = 0;
  gid_t gid = 0;
  std::string base = kDefaultBase;
  std::optional<std::string> netns;
  bool daemonize = false;
  bool new_pid_ns = false;
  bool allow_userfaultfd = false;  ///< The jail has /dev/userfaultfd.
  CgroupArguments cgroups;
  ResourceLimits limits;
  std::vector<std::string> monitor;  ///< What stands after `--`.
};

/// `mayfly-jailer cleanup ID`.
struct CleanupArguments {
  std::string id;
  std::string exec_name = "mayfly";
  std::string base = kDefaultBase;
  std::optional<std::string> parent_cgroup;
};

/// The answer to --help or --version.
struct PrintText {
  std::string text;
};

using Invocation = std::variant<JailArguments, CleanupArguments, PrintText>;

/// Errors name the flag, its value and what would be right.
[[nodiscard]] Result<Invocation> parse_jailer_arguments(int argc, const char* const* argv);

/// 1 to 64 letters, digits and hyphens.
[[nodiscard]] bool is_id(std::string_view text) noexcept;

/// A uid or gid: a decimal number, but not the largest, which means "none" to the kernel.
[[nodiscard]] Result<std::uint32_t> parse_user_number(std::string_view field, std::string_view text);

[[nodiscard]] Result<CgroupSetting> parse_cgroup_setting(std::string_view text);

/// "RESOURCE=NUMBER" into `limits`.
[[nodiscard]] Status parse_resource_limit(std::string_view text, ResourceLimits& limits);

/// A path of names, none of them "." or "..", that does not begin with "/".
[[nodiscard]] Status check_parent_cgroup(std::string_view path);

}  // namespace mayfly::jailer
