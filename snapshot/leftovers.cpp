#include "snapshot/leftovers.h"

#include "snapshot/file_pair.h"
#include "snapshot/memory_file.h"
#include "snapshot/state_file.h"
#include "vmm/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <vector>

namespace mayfly {
namespace {

bool is_memory_of(const std::string& path, const SnapshotId& id, std::uint64_t memory_size) {
  const auto file = open_for_reading(path);
  if (!file) return false;
  const auto footer = read_footer(file->get(), path, memory_size);
  return footer && footer->id == id;
}

/// Gives NAME.mayfly-new, which is open and locked as `file`, its name. If the state's rename were lost in a crash, the
/// old state would need the old memory: so that is synced before.
Status give_name(const std::string& state_path, const std::string& memory_path, int file) {
  if (auto synced = sync_directory_of(state_path, "snapshot_path"); !synced) return synced;
  const std::string left = new_name(memory_path);
  // Syncing takes time; a process that ignores the lock may have replaced it.
  if (!names_file(left, file))
    return fail(ErrorKind::State, "{} was removed or replaced before it had its name; try again", left);
  if (std::rename(left.c_str(), memory_path.c_str()) != 0)
    return fail_errno(ErrorKind::System, "cannot rename {} to {}", left, memory_path);
  return sync_directory_of(memory_path, "mem_file_path");
}

/// A state file that was found.
struct State {
  std::string path;
  SnapshotId id{};
};

/// A memory file that is worth nothing without another one.
struct Diff {
  std::string path;
  SnapshotId base{};
};

/// The state files of the directories that are swept, and the diffs.
struct States {
  std::vector<State> good;
  std::vector<Diff> diffs{};
  std::string unknown{};  ///< The first directory or file that may have or be a state, and cannot be read: a sentence.
};

/// Whether a file is not there, or is no such file, as far as it can be seen.
bool is_other(const Error& why) { return why.kind == ErrorKind::NotFound || why.kind == ErrorKind::InvalidArgument; }

/// Whether a file begins as state files do. False also where none is there. Errors: it cannot be opened or read.
Result<bool> has_state_magic(const std::string& path) {
  auto file = open_for_reading(path);
  if (!file && is_other(file.error())) return false;  // gone meanwhile; a FIFO
  if (!file) return propagate(file);
  std::array<char, kStateFileMagic.size()> magic{};
  const ssize_t count = ::pread(file->get(), magic.data(), magic.size(), 0);
  if (count < 0) return fail_errno(ErrorKind::System, "{} cannot be read", path);
  return magic == kStateFileMagic;
}

void add_unknown(std::string_view noun, const std::string& path, States& states) {
  if (states.unknown.empty()) states.unknown = fmt::format("{} {} that may need it cannot be read", noun, path);
}

void add_diff(const std::string& path, States& states) {
  const auto file = open_for_reading(path);
  if (!file && !is_other(file.error())) add_unknown("file", path, states);
  if (!file) return;
  const auto footer = find_footer(file->get(), path);
  if (!footer && !is_other(footer.error())) return add_unknown("file", path, states);
  if (footer && footer->kind == MemoryFileKind::Diff) states.diffs.push_back({path, footer->base_id});
}

void add_state(const std::string& path, States& states) {
  const auto begins = has_state_magic(path);
  if (begins && !*begins) return add_diff(path, states);
  if (begins) {
    auto state = read_state_file(path);
    if (state) {
      states.good.push_back({path, state->id});
      return;
    }
  }
  add_unknown("state file", path, states);
}

/// A state that is in the making counts by nothing but its memory, which its maker has locked.
void add_neighbour(const std::string& path, States& states) {
  if (path.ends_with(kNewSuffix))
    add_diff(path, states);
  else
    add_state(path, states);
}

/// Calls `use` with each regular file of a directory. Error: it cannot be read (to its end).
Status for_each_file_of(const std::string& directory, const std::function<void(const std::string&)>& use) {
  std::error_code failed;
  for (std::filesystem::directory_iterator entry{directory, failed}, end; !failed && entry != end;
       entry.increment(failed)) {
    std::error_code none;
    if (entry->is_regular_file(none) && !entry->is_symlink(none)) use(entry->path().string());
  }
  if (failed) return fail(ErrorKind::System, "directory {} cannot be read: {}", directory, errno_text(failed.value()));
  return {};
}

/// A leftover that this process may do away with, if it is not another's; holds the lock meanwhile.
struct Claim {
  std::string path;
  OwnedFd file;
  struct stat status{};
  FileLock lock = FileLock::Held;
};

Result<Claim> claim(const std::string& path) {
  Claim claimed{.path = path,
                .file = OwnedFd{::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)}};
  if (!claimed.file) return fail_errno(ErrorKind::System, "{} cannot be opened", path);
  if (::fstat(claimed.file.get(), &claimed.status) != 0) return fail_errno(ErrorKind::System, "{}", path);
  claimed.lock = lock_new_file(claimed.file.get());
  if (!names_file(path, claimed.file.get())) claimed.lock = FileLock::Held;
  return claimed;
}

class Sweeper {
 public:
  Sweeper(std::span<const std::string> directories, bool dry_run, const std::function<void(const Leftover&)>& report)
      : directories_(directories), dry_run_(dry_run), report_(report) {}

  /// Leftovers are locked before states are read: a monitor that names its state later still holds its lock now, so its
  /// memory is Busy.
  [[nodiscard]] Status run() && {
    std::vector<std::string> paths;
    for_each_file([&](const std::string& path) {
      if (path.ends_with(kNewSuffix)) paths.push_back(path);
    });
    std::ranges::sort(paths);
    for (const std::string& path : paths) add_claim(path);
    for_each_file([&](const std::string& path) { add_neighbour(path, states_); });
    for (Claim& each : claims_)
      if (auto done = sweep_one(each); !done) note(std::move(done));
    return std::move(first_failure_);
  }

 private:
  void note(Status failed) {
    if (first_failure_) first_failure_ = std::move(failed);
  }

  void for_each_file(const std::function<void(const std::string&)>& use) {
    for (const std::string& directory : directories_) {
      auto read = for_each_file_of(directory, use);
      if (read) continue;
      note(std::move(read));
      if (states_.unknown.empty())
        states_.unknown = fmt::format("directory {}, where a state may need it, cannot be read", directory);
    }
  }

  void add_claim(const std::string& path) {
    struct stat named{};
    // A directory may be given twice, and a second lock would be refused.
    if (::lstat(path.c_str(), &named) == 0 &&
        std::ranges::any_of(claims_, [&](const Claim& each) { return is_same_file(each.status, named); }))
      return;
    auto mine = claim(path);
    if (mine)
      claims_.push_back(std::move(*mine));
    else if (mine.error().kind != ErrorKind::NotFound)  // gone meanwhile
      note(propagate(mine));
  }

  [[nodiscard]] Status sweep_one(Claim& mine) {
    Leftover found{.path = mine.path, .bytes = static_cast<std::uint64_t>(mine.status.st_blocks) * 512};
    if (mine.lock == FileLock::Held)
      found.fate = Leftover::Fate::Busy;
    else if (mine.lock == FileLock::Unavailable)
      leave(found, "it cannot be locked, so a process may be writing it");
    else if (auto judged = judge(mine.file.get(), found); !judged)
      return judged;
    report_(found);
    mine.file.reset();
    return {};
  }

  static void leave(Leftover& found, std::string reason) {
    found.fate = Leftover::Fate::Uncertain;
    found.reason = std::move(reason);
  }

  /// Decides, and does it.
  [[nodiscard]] Status judge(int file, Leftover& found) {
    const auto footer = find_footer(file, found.path);
    if (!footer && footer.error().kind != ErrorKind::InvalidArgument) {
      leave(found, footer.error().message);
      return {};
    }
    if (footer && !states_.unknown.empty()) {
      leave(found, "it is whole, and " + states_.unknown);
      return {};
    }
    if (footer) {
      const std::string name = found.path.substr(0, found.path.size() - kNewSuffix.size());
      const auto owner = std::ranges::find(states_.good, footer->id, &State::id);
      if (owner != states_.good.end() && !is_memory_of(name, footer->id, footer->memory_size)) {
        if (auto other = why_name_is_kept(name); !other.empty()) {
          leave(found, fmt::format("it is the memory of {}, and {}", owner->path, other));
          return {};
        }
        found.fate = Leftover::Fate::Named;
        found.reason = owner->path;
        return dry_run_ ? Status{} : give_name(owner->path, name, file);
      }
      const auto above = std::ranges::find(states_.diffs, footer->id, &Diff::base);
      if (above != states_.diffs.end() && !is_memory_of(name, footer->id, footer->memory_size)) {
        leave(found, fmt::format("{} is a diff of it; rename it to {}, or remove that diff and sweep again",
                                 above->path, name));
        return {};
      }
    }
    if (!dry_run_ && names_file(found.path, file) && ::unlink(found.path.c_str()) != 0)
      return fail_errno(ErrorKind::System, "cannot remove {}", found.path);
    return {};
  }

  /// What forbids to replace NAME; empty: nothing.
  [[nodiscard]] std::string why_name_is_kept(const std::string& name) const {
    auto file = open_for_reading(name);
    auto footer = file ? find_footer(file->get(), name) : Result<MemoryFileFooter>{propagate(file)};
    if (!footer) {
      const bool nothing =
          footer.error().kind == ErrorKind::NotFound || footer.error().kind == ErrorKind::InvalidArgument;
      return nothing ? "" : footer.error().message;
    }
    const auto owner = std::ranges::find(states_.good, footer->id, &State::id);
    if (owner == states_.good.end()) return {};
    return fmt::format("{} is that of {}; both load; move that pair away, or remove that state, and sweep again", name,
                       owner->path);
  }

  const std::span<const std::string> directories_;
  const bool dry_run_;
  const std::function<void(const Leftover&)>& report_;
  std::vector<Claim> claims_;
  States states_;
  Status first_failure_{};
};

/// Checks that no state beside the pair needs the leftover at MEMORY.mayfly-new, which is about to be replaced. States
/// that lie elsewhere or cannot be read are not considered: else they would block every later snapshot.
Status check_unneeded(const MemoryFileFooter& left, const std::string& state_path, const std::string& memory_path,
                      std::string_view what) {
  if (is_memory_of(memory_path, left.id, left.memory_size)) return {};
  States states;
  for (const std::string& directory : {directory_of(state_path), directory_of(memory_path)})
    (void)for_each_file_of(directory, [&](const std::string& path) { add_neighbour(path, states); });
  const auto owner = std::ranges::find(states.good, left.id, &State::id);
  const auto above = std::ranges::find(states.diffs, left.id, &Diff::base);
  if (owner == states.good.end() && above == states.diffs.end()) return {};
  if (owner == states.good.end())
    return fail(ErrorKind::State,
                "{} {}: {}, which a killed monitor left, is what {} is a diff of; rename it, or give another path",
                what, memory_path, new_name(memory_path), above->path);
  return fail(ErrorKind::State,
              "{} {}: {} is the memory of {}, as the monitor that wrote it was killed; give it its name by mayfly "
              "snapshot sweep {} {}, or give another path",
              what, memory_path, new_name(memory_path), owner->path, directory_of(memory_path),
              directory_of(owner->path));
}

}  // namespace

Status finish_interrupted_pair(const std::string& state_path, const std::string& memory_path) {
  const std::string left = new_name(memory_path);
  struct stat status{};
  if (::lstat(left.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
  auto mine = claim(left);
  if (!mine && mine.error().kind == ErrorKind::NotFound) return {};  // gone meanwhile
  if (!mine) return propagate(mine, "mem_file_path");
  if (mine->lock == FileLock::Held) return {};
  const auto footer = find_footer(mine->file.get(), left);
  if (!footer) return {};
  const auto state = read_state_file(state_path);
  if (state && footer->id == state->id && !is_memory_of(memory_path, footer->id, footer->memory_size))
    return give_name(state_path, memory_path, mine->file.get());
  if (const auto begins = has_state_magic(state_path); !state && (!begins || *begins))
    return fail(ErrorKind::State,
                "mem_file_path {}: {}, which a killed monitor left, may be the memory of a state that cannot be read: "
                "{}; mend or remove that state, or give other paths",
                memory_path, left, state.error().message);
  return check_unneeded(*footer, state_path, memory_path, "mem_file_path");
}

Status check_leftover_unneeded(const std::string& path, std::string_view what) {
  const std::string left = new_name(path);
  const auto file = open_for_reading(left);
  if (!file) return {};
  const auto footer = find_footer(file->get(), left);
  return footer ? check_unneeded(*footer, path, path, what) : Status{};
}

Status sweep_leftovers(std::span<const std::string> directories, bool dry_run,
                       const std::function<void(const Leftover&)>& report) {
  return Sweeper{directories, dry_run, report}.run();
}

}  // namespace mayfly
