#pragma once

#include "vmm/base/error.h"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

/// What a process that was killed while it wrote a snapshot left behind: NAME.mayfly-new (see file_pair.h).
namespace mayfly {

/// Ends what a killed process began with this pair: where the state at `state_path` has its memory at
/// MEMORY.mayfly-new, that gets its name. Nothing is done where there is no such file, or where another process has it
/// locked. Any thread. Errors: the state is there and cannot be read, while MEMORY.mayfly-new is a whole memory file;
/// that is the memory of another state in the directory of either path; the state's name cannot be put on stable
/// storage, or the memory cannot be renamed.
[[nodiscard]] Status finish_interrupted_pair(const std::string& state_path, const std::string& memory_path);

/// That no state or diff in the directory of `path` needs PATH.mayfly-new, if that is there: a new file at `path` takes
/// its place. `what` names the path in the error. What cannot be read is needed by nobody.
[[nodiscard]] Status check_leftover_unneeded(const std::string& path, std::string_view what);

/// One file that ends in .mayfly-new.
struct Leftover {
  enum class Fate {
    Removed,   ///< No state needs it.
    Named,     ///< It is the memory of the state `reason`, and has its name now.
    Busy,      ///< A process is writing it.
    Uncertain  ///< Left, since it may be needed: `reason` is a sentence that says by what.
  };
  std::string path;
  std::uint64_t bytes = 0;  ///< On the disk.
  Fate fate = Fate::Removed;
  std::string reason{};
};

/// Looks at each NAME.mayfly-new that lies in the directories themselves, and tells `report` what it did or, in a dry
/// run, would do. A memory file is needed if a state file in one of these directories has its id and NAME is another's.
/// Where no state has its id, and a diff of it lies in one of them, it is left (Uncertain).
/// All whole memory files are left (Uncertain) where a directory or a state file cannot be read; one of them is where
/// NAME is the memory of another state that is there. Any thread. Errors: a directory cannot be read; a file cannot be
/// opened, removed or renamed (the first one; the others are looked at all the same).
[[nodiscard]] Status sweep_leftovers(std::span<const std::string> directories, bool dry_run,
                                     const std::function<void(const Leftover&)>& report);

}  // namespace mayfly
