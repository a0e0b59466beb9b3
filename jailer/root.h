#pragma once

#include "jailer/arguments.h"
#include "jailer/executable.h"
#include "jailer/undo.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <string>
#include <string_view>

/// The directory that the monitor will see as /: BASE/NAME OF EXEC FILE/ID/root.
///
///   NAME         copy of the monitor, root's
///   NAME.pid     its process id, for clients of the dialect: the monitor can replace it
///   dev/         kvm, net/tun, urandom: those that the host has; userfaultfd where it is asked for
///   run/         empty, the monitor's (default place of the API's socket)
///   proc/self/   where its own files of /proc will be mounted
///
/// Beside it, in BASE/NAME/ID, NAME.pid once more: root's, in a directory that is root's.
///
/// A host may put files there before (a kernel, drives, a configuration file): BASE/.../root may exist, as long as it
/// is root's and has no NAME in it. `undo` removes what was made; what was there stays. Until
/// then, or until the monitor is executed, no other jailer works on this id.
namespace mayfly::jailer {

struct JailRoot {
  OwnedFd root;
  std::string path;
};

/// Call in the mount namespace of the monitor to be, since its descriptors belong to that. Errors: a base or a folder
/// in it that is not trustworthy (directories.h); the id is in use; the base is mounted noexec or nodev; a full disk.
[[nodiscard]] Result<JailRoot> make_root(const JailArguments& jail, const Executable& executable, Undo& undo);

/// Where the jails of one executable are: BASE/NAME.
[[nodiscard]] std::string folder_path(std::string_view base, std::string_view exec_name);

/// Keeps other jailers off an id of a folder BASE/NAME until the descriptor is closed, whether its directory is there,
/// not yet or no more. Nobody but root can take it. Errors: another jailer is at work on the id.
[[nodiscard]] Result<OwnedFd> lock_id(int folder, const std::string& folder_path, std::string_view id);

}  // namespace mayfly::jailer
