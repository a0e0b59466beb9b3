#pragma once

#include "rootfs-tools/clones/places.h"
#include "vmm/base/error.h"

#include <filesystem>
#include <string>

namespace mayfly::clones {

/// mayfly-jailer beside a monitor; beside this program where that is empty.
[[nodiscard]] std::filesystem::path jailer_beside(const std::string& monitor);

/// Kills its process, if it has one, and waits for its end. Errors: no right to; it waits for a device.
[[nodiscard]] Status kill_machine(const std::string& id, const ClonePlace& place);

/// Removes the files of a clone whose process has ended; of a jail by mayfly-jailer, which knows what it has elsewhere, such as
/// cgroups. Nothing is there: nothing is done. Error: without a jail, a process still listens at its API's socket.
[[nodiscard]] Status remove_clone(const std::string& id, const ClonePlace& place, const std::filesystem::path& jailer);

}  // namespace mayfly::clones
