#pragma once

#include "jailer/arguments.h"
#include "jailer/undo.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <functional>
#include <string>
#include <string_view>
#include <vector>

/// Control groups of both versions.
///
///   auto hierarchies = parse_hierarchies(content of /proc/self/mountinfo, content of /proc/self/cgroup);
///   auto cgroups = Cgroups::make(hierarchies, jail.cgroups, "mayfly", jail.id, undo);   // made and configured
///   cgroups->attach();                                                                // this process is in them
namespace mayfly::jailer {

/// A mounted hierarchy: the one of version 2, or one of version 1 with its controllers.
struct Hierarchy {
  std::string mount;
  int version = 1;
  std::vector<std::string> controllers;  ///< Of version 1 only.
  std::string root = "/";                ///< Which of its cgroups is at the mount.
  std::string home;  ///< Where this process is, below the mount: "/", "/system.slice/x.service"; "": not below it.
};

/// Where hierarchies are mounted; the first mount of each.
[[nodiscard]] std::vector<Hierarchy> parse_hierarchies(std::string_view mountinfo, std::string_view own_cgroups);

/// The same, of this process.
[[nodiscard]] Result<std::vector<Hierarchy>> read_hierarchies();

/// The cgroups MOUNT/PARENT/ID of one machine, one in each hierarchy that a setting asks for; none without settings.
/// (In version 2 a parent without settings means: PARENT itself, which must exist.)
class Cgroups {
 public:
  /// Makes what is missing of the path, in version 2 with the controllers switched on, in version 1 with the parent's
  /// CPUs and memory nodes, and writes the settings. A cgroup that an earlier machine left is replaced, since it has
  /// that machine's limits. Errors: a hierarchy, a controller or a file that is not there; a value that the kernel
  /// refuses; processes in the way; a limit of cgroups; no way back to where this process is.
  [[nodiscard]] static Result<Cgroups> make(const std::vector<Hierarchy>& hierarchies, const CgroupArguments& arguments,
                                            const std::string& exec_name, const std::string& id, Undo& undo);

  /// Moves this process into them. `undo` reverts that, and needs the rights to.
  [[nodiscard]] Status attach(Undo& undo);

 private:
  struct Group {
    std::string path;
    OwnedFd processes;  // its cgroup.procs
    OwnedFd home;       // that of the cgroup where the process came from
  };
  std::vector<Group> groups_;
};

/// Whether a process, by its number, is not the machine's.
using IsForeign = std::function<bool(const std::string& process)>;

/// Removes the cgroups PARENT/ID of every hierarchy; those whose processes are foreign, all of them, stay. Errors:
/// other processes in it; cgroups in it.
[[nodiscard]] Status remove_cgroups(const std::vector<Hierarchy>& hierarchies, const std::string& parent,
                                    const std::string& id, const IsForeign& is_foreign);

}  // namespace mayfly::jailer
