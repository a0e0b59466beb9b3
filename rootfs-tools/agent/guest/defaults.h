#pragma once

#include "rootfs-tools/image/accounts.h"
#include "vmm/base/error.h"

#include <string>
#include <vector>

namespace mayfly::agent {

/// How commands are run where their request says nothing: as the image wants its own to be.
struct Defaults {
  std::vector<std::string> environment{};
  image::RunUser user{.uid = 0, .gid = 0, .groups = {}, .home = "/root"};
  std::string directory = "/";
  bool init_is_parent = false;  ///< And may be told to end the guest, which is the agent's to name.
};

/// `run_file`: see rootfs-tools/init/run_file.h; empty: root, in /, with nothing but a PATH.
[[nodiscard]] Result<Defaults> read_defaults(const std::string& run_file);

}  // namespace mayfly::agent
