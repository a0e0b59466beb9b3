#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>

namespace mayfly::jailer {

/// The monitor that will run in the jail, open for reading.
struct Executable {
  OwnedFd file;
  std::string name;  ///< The last part of its path: the jail's folder and the file in it are named after it.
  off_t size = 0;
};

/// Opens `path` and checks that it can run where there is no other file. Errors, naming --exec-file: no regular file,
/// not executable, a script, not an ELF of this machine, dynamically linked.
[[nodiscard]] Result<Executable> open_executable(const std::string& path);

/// The checks of the content: `head` is its first bytes, at least the program headers. `path` is for errors.
[[nodiscard]] Status check_static_elf(std::span<const std::byte> head, const std::string& path);

}  // namespace mayfly::jailer
