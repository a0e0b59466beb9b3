#include "snapshot/leftovers.h"

#include "snapshot/file_pair.h"
#include "snapshot/memory_file.h"
#include "snapshot/state_file.h"

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

/// What state files begin with (state_file.h).
constexpr std::array<char, 8> kStateMagic = {'M', 'A', 'Y', 'F', 'L', 'Y', 'S', 'T'};

bool is_memory_of(const std::string& path, const SnapshotId& id, std::uint64_t memory_size) {
  const auto file = open_for_reading(path);
  if (!file) return false;
  const auto footer = read_footer(file->get(), path, memory_size);
  return footer && footer->id == id;
}

/// Gives NAME.mayfly-new its name. If the state's rename were lost in a crash, the old state would need the old memory:
/// so that is synced before.
Status give_name(const std::string& state_path, const std::string& memory_path) {
  if (auto synced = sync_directory_of(state_path, "snapshot_path"); !synced) return synced;
  const std::string left = new_name(memory_path);
  if (std::rename(left.c_str(), memory_path.c_str()) != 0)
    return fail_errno(ErrorKind::System, "cannot rename {} to {}", left, memory_path);
  return sync_directory_of(memory_path, "mem_file_path");
}

/// A state file that was found.
struct State {
  std::string path;
  SnapshotId id{};
};

/// The state files of the directories that are swept.
struct States {
  std::vector<State> good;
  std::string unreadable{};  ///< The first one that cannot be read.
};

bool has_state_magic(const std::string& path) {
  const auto file = open_for_reading(path);
  std::array<char, kStateMagic.size()> magic{};
  return file && ::pread(file->get(), magic.data(), magic.size(), 0) == static_cast<ssize_t>(magic.size()) &&
         magic == kStateMagic;
}

void add_state(const std::string& path, States& states) {
  if (!has_state_magic(path)) return;
  auto state = read_state_file(path);
  if (state)
    states.good.push_back({path, state->id});
  else if (states.unreadable.empty())
    states.unreadable = path;
}

/// Whether this process may do away with it; holds the lock meanwhile.
struct Claim {
  OwnedFd file;
  struct stat status{};
  bool busy = false;
};

Result<Claim> claim(const std::string& path) {
  Claim claimed{.file = OwnedFd{::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)}};
  if (!claimed.file) return fail_errno(ErrorKind::System, "{} cannot be opened", path);
  if (::fstat(claimed.file.get(), &claimed.status) != 0) return fail_errno(ErrorKind::System, "{}", path);
  claimed.busy = !lock_new_file(claimed.file.get()) || !names_file(path, claimed.file.get());
  return claimed;
}

class Sweeper {
 public:
  Sweeper(bool dry_run, const std::function<void(const Leftover&)>& report) : dry_run_(dry_run), report_(report) {}

  void look_through(const std::string& directory) {
    std::error_code failed;
    for (std::filesystem::directory_iterator entry{directory, failed}, end; !failed && entry != end;
         entry.increment(failed)) {
      std::error_code none;
      if (!entry->is_regular_file(none) || entry->is_symlink(none)) continue;
      const std::string path = entry->path().string();
      if (path.ends_with(kNewSuffix))
        leftovers_.push_back(path);
      else
        add_state(path, states_);
    }
    if (failed) note(fail(ErrorKind::System, "directory {} cannot be read: {}", directory, errno_text(failed.value())));
  }

  void sweep() {
    std::ranges::sort(leftovers_);
    // A directory may be given twice.
    leftovers_.erase(std::ranges::unique(leftovers_).begin(), leftovers_.end());
    for (const std::string& path : leftovers_)
      if (auto done = sweep_one(path); !done) note(std::move(done));
  }
  [[nodiscard]] Status status() && { return std::move(first_failure_); }

 private:
  void note(Status failed) {
    if (first_failure_) first_failure_ = std::move(failed);
  }

  [[nodiscard]] Status sweep_one(const std::string& path) {
    auto mine = claim(path);
    if (!mine && mine.error().kind == ErrorKind::NotFound) return {};  // gone meanwhile
    if (!mine) return propagate(mine);
    Leftover found{.path = path, .bytes = static_cast<std::uint64_t>(mine->status.st_blocks) * 512};
    if (mine->busy)
      found.fate = Leftover::Fate::Busy;
    else if (auto judged = judge(mine->file.get(), found); !judged)
      return judged;
    report_(found);
    return {};
  }

  /// Decides, and does it.
  [[nodiscard]] Status judge(int file, Leftover& found) {
    const auto footer = find_footer(file, found.path);
    const std::string name = found.path.substr(0, found.path.size() - kNewSuffix.size());
    if (footer) {
      const auto owner = std::ranges::find(states_.good, footer->id, &State::id);
      if (owner != states_.good.end() && !is_memory_of(name, footer->id, footer->memory_size)) {
        found.fate = Leftover::Fate::Named;
        found.reason = owner->path;
        return dry_run_ ? Status{} : give_name(owner->path, name);
      }
      if (owner == states_.good.end() && !states_.unreadable.empty()) {
        found.fate = Leftover::Fate::Uncertain;
        found.reason = states_.unreadable;
        return {};
      }
    }
    if (!dry_run_ && ::unlink(found.path.c_str()) != 0)
      return fail_errno(ErrorKind::System, "cannot remove {}", found.path);
    return {};
  }

  const bool dry_run_;
  const std::function<void(const Leftover&)>& report_;
  std::vector<std::string> leftovers_;
  States states_;
  Status first_failure_{};
};

}  // namespace

Status settle_pair(const std::string& state_path, const std::string& memory_path) {
  struct stat status{};
  if (::lstat(new_name(memory_path).c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
  const auto state = read_state_file(state_path);
  if (!state) return {};
  const std::uint64_t size = state->machine.mem_size_mib * kMiB;
  if (is_memory_of(memory_path, state->id, size) || !is_memory_of(new_name(memory_path), state->id, size)) return {};
  return give_name(state_path, memory_path);
}

Status sweep_leftovers(std::span<const std::string> directories, bool dry_run,
                       const std::function<void(const Leftover&)>& report) {
  Sweeper sweeper{dry_run, report};
  for (const std::string& directory : directories) sweeper.look_through(directory);
  sweeper.sweep();
  return std::move(sweeper).status();
}

}  // namespace mayfly
