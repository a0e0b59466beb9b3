#include "rootfs-tools/image/run_file.h"

#include "rootfs-tools/init/run_file.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <fmt/format.h>

namespace mayfly::image {
namespace {

Status add_record(std::string& text, std::string_view name, std::string_view value) {
  if (value.find('\0') != std::string_view::npos)
    return fail(ErrorKind::InvalidArgument,
                "'{}' has a zero byte, which no guest's program can be given; build the image anew",
                printable(value, kLongestShownName));
  text += fmt::format("{}={}", name, value);
  text += '\0';
  return {};
}

Status add_number(std::string& text, std::string_view name, std::uint32_t number) {
  return add_record(text, name, fmt::to_string(number));
}

Status check_count(std::string_view what, std::size_t count, std::size_t most) {
  if (count <= most) return {};
  return fail(ErrorKind::TooLarge, "the image has {} {}, and {} are allowed; build it anew", count, what, most);
}

}  // namespace

Result<std::string> to_run_file(const RunConfig& config) {
  TRY(check_count("words in entrypoint and cmd", config.entrypoint.size() + config.command.size(),
                  guest_init::kMostRunWords));
  TRY(check_count("variables", config.environment.size(), guest_init::kMostRunWords));
  TRY(check_count("groups of its user", config.user.groups.size(), guest_init::kMostRunGroups));
  std::string text{guest_init::kRunFileMark};
  text += '\0';
  for (const std::string& each : config.entrypoint) TRY(add_record(text, "arg", each));
  for (const std::string& each : config.command) TRY(add_record(text, "arg", each));
  for (const std::string& each : config.environment) TRY(add_record(text, "env", each));
  TRY(add_number(text, "uid", config.user.uid));
  TRY(add_number(text, "gid", config.user.gid));
  for (const std::uint32_t each : config.user.groups) TRY(add_number(text, "group", each));
  TRY(add_record(text, "home", config.user.home));
  TRY(add_record(text, "cwd", config.working_directory));
  TRY(add_number(text, "stop", static_cast<std::uint32_t>(config.stop_signal)));
  TRY(check_count("bytes of words and variables", text.size(), guest_init::kRunFileLimit));
  return text;
}

}  // namespace mayfly::image
