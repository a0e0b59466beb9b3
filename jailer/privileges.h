#pragma once

#include "jailer/arguments.h"
#include "vmm/base/error.h"

#include <sys/types.h>

#include <cstdint>
#include <string_view>

/// What the monitor may not do as a process.
namespace mayfly::jailer {

/// Whether a uid or gid exists here: user namespaces have a part of the host's. `map` is the content of a uid_map.
[[nodiscard]] bool is_mapped(std::string_view map, std::uint32_t number);

/// Errors: uid or gid does not exist in this user namespace.
[[nodiscard]] Status check_user(uid_t uid, gid_t gid);

/// Soft and hard limits. Errors: above the hard limit, without the right to raise it.
[[nodiscard]] Status set_limits(const ResourceLimits& limits);

/// Takes every capability from this thread for ever, the bounding set's included, makes it the user, with no group but
/// `gid`, and a new session keyring, and sets no_new_privs. Of this thread alone: another may undo what was done,
/// should the next step fail.
[[nodiscard]] Status drop_privileges(uid_t uid, gid_t gid);

}  // namespace mayfly::jailer
