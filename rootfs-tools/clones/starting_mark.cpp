#include "rootfs-tools/clones/starting_mark.h"

#include "rootfs-tools/clones/places.h"
#include "rootfs-tools/clones/removal.h"
#include "vmm/base/files.h"
#include "vmm/base/machine_id.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace mayfly::clones {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMarks = ".starting";  // no machine's id
constexpr std::string_view kMade = "made\n";
constexpr std::size_t kLongestMark = 8192;

bool lock(const OwnedFd& file, int how) {
  while (::flock(file.get(), how) != 0)
    if (errno != EINTR) return false;
  return true;
}

/// Held for moments: between the making of a mark and its lock nobody looks.
OwnedFd lock_marks(const fs::path& marks) {
  OwnedFd directory{::open(marks.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)};
  if (directory && !lock(directory, LOCK_EX)) directory.reset();
  return directory;
}

/// Whoever starts a clone removes its mark before the kernel takes the lock, perhaps since we have opened it.
bool is_removed(const OwnedFd& mark) {
  struct stat status{};
  return ::fstat(mark.get(), &status) != 0 || status.st_nlink == 0;
}

struct DeadMark {
  fs::path path;
  OwnedFd file;  // locked, so nobody else removes the same
};

std::vector<DeadMark> find_dead_marks(const fs::path& marks) {
  std::vector<DeadMark> dead;
  const OwnedFd nobody_else = lock_marks(marks);
  if (!nobody_else) return dead;
  std::error_code error;
  for (fs::directory_iterator at{marks, error}, end; !error && at != end; at.increment(error)) {
    OwnedFd file{::open(at->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
    if (file && lock(file, LOCK_EX | LOCK_NB) && !is_removed(file))
      dead.push_back({.path = at->path(), .file = std::move(file)});
  }
  return dead;
}

/// False: something of it is left.
bool is_cleared(const DeadMark& mark, const fs::path& run_directory, const fs::path& jailer) {
  const std::string id = mark.path.filename();
  const auto text = read_file(mark.path, "the mark", kLongestMark);
  const std::size_t line = text ? text->find('\n') : std::string::npos;
  if (!is_machine_id(id) || line == std::string::npos) return true;  // nothing was made
  const std::string jail_base = text->substr(0, line);
  if (std::string_view{*text}.substr(line + 1) != kMade) {
    // Perhaps a directory, which is empty then; or one of another clone, which is not.
    ::rmdir((jail_base.empty() ? run_directory / id : jail_directory(jail_base, id)).c_str());
    return true;
  }
  const ClonePlace place = place_of(id, {.jails = jail_base, .run = run_directory}, !jail_base.empty());
  return kill_machine(id, place) && remove_clone(id, place, jailer);
}

}  // namespace

Result<StartingMark> StartingMark::make(const fs::path& run_directory, const std::string& id,
                                        const std::string& jail_base) {
  const fs::path marks = run_directory / kMarks;
  if (::mkdir(marks.c_str(), 0700) != 0 && errno != EEXIST)
    return fail_errno(ErrorKind::System, "cannot make {}", marks.native());
  const OwnedFd nobody_else = lock_marks(marks);
  if (!nobody_else) return fail_errno(ErrorKind::System, "cannot lock {}", marks.native());
  const fs::path path = marks / id;
  OwnedFd file{::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600)};
  if (!file && errno == EEXIST)
    return fail(ErrorKind::State,
                "another mayfly up starts {}, or what one has left cannot be removed: give another --id", id);
  if (!file) return fail_errno(ErrorKind::System, "cannot make {}", path.native());
  StartingMark mark{path, std::move(file)};
  const std::string line = jail_base + '\n';
  if (!lock(mark.file_, LOCK_EX | LOCK_NB) ||
      ::write(mark.file_.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    return fail_errno(ErrorKind::System, "cannot write {}", path.native());
  return mark;
}

Status StartingMark::directory_is_made() {
  if (::write(file_.get(), kMade.data(), kMade.size()) == static_cast<ssize_t>(kMade.size())) return {};
  return fail_errno(ErrorKind::System, "cannot write {}", path_.native());
}

void StartingMark::remove() {
  if (!file_) return;  // moved from
  ::unlink(path_.c_str());
  file_.reset();
}

void clear_half_made(const fs::path& run_directory, const fs::path& jailer) {
  if (!check_run_directory(run_directory)) return;
  for (const DeadMark& mark : find_dead_marks(run_directory / kMarks))
    if (is_cleared(mark, run_directory, jailer)) ::unlink(mark.path.c_str());
}

}  // namespace mayfly::clones
