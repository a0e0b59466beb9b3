#include "rootfs-tools/agent/guest/defaults.h"

#include "rootfs-tools/init/run_file.h"
#include "vmm/base/files.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <memory>

namespace mayfly::agent {

Result<Defaults> read_defaults(const std::string& run_file) {
  Defaults defaults;
  if (run_file.empty()) return defaults;
  const auto text = TRY(read_file(run_file, "--run " + run_file, guest_init::kRunFileLimit));
  const auto run = std::make_unique<guest_init::RunFile>();
  if (const auto wrong = guest_init::parse_run_file(text, *run))
    return fail(ErrorKind::InvalidArgument,
                "--run {}: '{}' is not understood; make it by mayfly-template of this version", run_file,
                printable(*wrong, kLongestShownName));
  for (std::size_t i = 0; i < run->environment_count; ++i) defaults.environment.emplace_back(run->environment[i]);
  defaults.user = {.uid = run->uid, .gid = run->gid, .groups = {}, .home = run->home};
  defaults.user.groups.assign(run->groups.begin(), run->groups.begin() + static_cast<std::ptrdiff_t>(run->group_count));
  defaults.directory = run->directory;
  return defaults;
}

}  // namespace mayfly::agent
