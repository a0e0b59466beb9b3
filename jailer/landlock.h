#pragma once

#include "vmm/base/error.h"

#include <cstdint>
#include <string>

namespace mayfly::jailer {

/// Which version of Landlock this kernel has; 0: none.
[[nodiscard]] int landlock_version() noexcept;

/// A second fence around this thread and what it executes, where the kernel has Landlock (else nothing): if there were
/// a way out of the root directory, no file outside could be opened. Inside, the monitor can do what it needs (read,
/// write, make and remove files, sockets and FIFOs; ioctls of devices) and execute `executable` alone; it cannot make
/// device nodes, links or directories. No TCP; no signals to, and no abstract Unix sockets of, processes outside.
///
/// Call with the jail as root directory, and no_new_privs. Errors: a kernel that has Landlock refuses it.
[[nodiscard]] Status fence_in(const std::string& executable);

}  // namespace mayfly::jailer
