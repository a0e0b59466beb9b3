#pragma once

#include "jailer/undo.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

/// Directories that nobody but root can redirect. Everything below them is reached from a descriptor by one name, never
/// by a path that is looked up again, so a link or a rename that somebody slips in is an error and not a way out.
///
///   auto base = open_trusted("--chroot-base-dir", "/srv/jailer");
///   auto jail = make_directory(*base, "vm-7", 0755, undo);
namespace mayfly::jailer {

/// The parts of a path between slashes; a slash at its end counts for nothing.
[[nodiscard]] std::vector<std::string_view> names_of(std::string_view path);

/// What stands after the last slash.
[[nodiscard]] std::string last_name(std::string_view path);

/// Whether one name, and no way to another directory: no slash, no NUL, not empty, "." or "..", at most 255 bytes.
[[nodiscard]] bool is_file_name(std::string_view name) noexcept;

/// Opens an absolute path from the root on. Errors, naming the part: a symbolic link, "..", not a directory, or a
/// directory in which another user than root (or the caller) can replace what is ours.
[[nodiscard]] Result<OwnedFd> open_trusted(std::string_view field, std::string_view path);

/// Opens a directory by its one name; `what` is its path in errors. Errors as above.
[[nodiscard]] Result<OwnedFd> open_directory(int parent, const std::string& name, const std::string& what);

/// Whether it was this call that made it.
struct Directory {
  OwnedFd fd;
  bool made = false;
};

/// Makes a directory of the caller, or opens one that is there already, which must be trustworthy as above.
[[nodiscard]] Result<Directory> make_directory(int parent, const std::string& name, mode_t mode,
                                               const std::string& what);
/// The same; `undo` removes it if it was made here.
[[nodiscard]] Result<OwnedFd> make_directory(int parent, const std::string& name, mode_t mode, const std::string& what,
                                             Undo& undo);

/// Another descriptor for the same file, for an undo that outlives the first; none where there are too many.
[[nodiscard]] OwnedFd duplicate(int fd);

/// Removes `name` in `parent` with all that is in it, however deep, through no link and into no other mount. Errors: a
/// mount in it, which stays with all that was not yet removed.
[[nodiscard]] Status remove_tree(int parent, const std::string& name, const std::string& what);

}  // namespace mayfly::jailer
