#include "snapshot/file_pair.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace mayfly {
namespace {

/// Another process may remove the same leftover, or lock a new file before its maker does: then it is tried again.
constexpr int kTriesToMake = 8;

std::string last_name_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

std::unexpected<Error> another_writes(const std::string& path, std::string_view what) {
  return fail(ErrorKind::State,
              "{} {}: another process is writing it, and has locked {}; wait for that one, or give another path", what,
              path, new_name(path));
}

/// Removes what a killed process left at PATH.mayfly-new. Error: somebody is writing it.
Status remove_leftover(const std::string& path, std::string_view what) {
  const std::string name = new_name(path);
  struct stat status{};
  if (::lstat(name.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return fail_errno(ErrorKind::System, "{}: cannot look at {}", what, name);
  }
  OwnedFd left;  // keeps its lock until the name is gone
  if (S_ISREG(status.st_mode)) {
    left = OwnedFd{::open(name.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
    if (!left && errno == ENOENT) return {};  // another process was faster
    // Without the lock another process may be writing it.
    if (!left)
      return fail_errno(ErrorKind::System, "{} {}: {} is there and cannot be opened; remove it, or give another path",
                        what, path, name);
  }
  if (left && lock_new_file(left.get()) == FileLock::Held) return another_writes(path, what);
  if (left && !names_file(name, left.get())) return {};  // another process was faster
  if (::unlink(name.c_str()) != 0 && errno != ENOENT)
    return fail_errno(ErrorKind::System, "{}: cannot remove {}, which was left there", what, name);
  return {};
}

}  // namespace

bool paths_clash(const std::string& a, const std::string& b) {
  const bool one_directory = is_same_file(directory_of(a), directory_of(b));
  for (const std::string& mine : {a, new_name(a)})
    for (const std::string& other : {b, new_name(b)})
      if ((one_directory && last_name_of(mine) == last_name_of(other)) || mine == other || is_same_file(mine, other))
        return true;
  return false;
}

FileLock lock_new_file(int file) noexcept {
  struct flock whole{};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(file, F_OFD_SETLK, &whole) == 0) return FileLock::Taken;
  return errno == EAGAIN || errno == EACCES ? FileLock::Held : FileLock::Unavailable;
}

bool names_file(const std::string& path, int file) noexcept {
  struct stat named{};
  struct stat open{};
  return ::lstat(path.c_str(), &named) == 0 && ::fstat(file, &open) == 0 && is_same_file(named, open);
}

Status check_new_file(const std::string& path, std::string_view what) {
  struct stat status{};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
    return fail(ErrorKind::InvalidArgument, "{} {} is there and no regular file; give another path", what, path);
  if (::faccessat(AT_FDCWD, directory_of(path).c_str(), W_OK | X_OK, AT_EACCESS) != 0)
    return fail_errno(ErrorKind::System, "{} {}: nothing can be made in its directory {}", what, path,
                      directory_of(path));
  return {};
}

Result<NewFile> NewFile::create(const std::string& path, std::string_view what) {
  if (auto checked = check_new_file(path, what); !checked) return propagate(checked);
  // Before anything is made: one that cannot be opened could not be synced at the end.
  auto directory = open_directory_of(path, what);
  if (!directory) return propagate(directory);
  const std::string name = new_name(path);
  for (int attempt = 0; attempt < kTriesToMake; ++attempt) {
    if (auto removed = remove_leftover(path, what); !removed) return propagate(removed);
    OwnedFd fd{::open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)};
    if (!fd && errno == EEXIST) continue;
    if (!fd) return fail_errno(ErrorKind::System, "{}: cannot make {}", what, name);
    // Between the two, another process may have taken it for a leftover.
    if (lock_new_file(fd.get()) != FileLock::Held && names_file(name, fd.get()))
      return NewFile{std::move(*directory), std::move(fd), path, what};
  }
  return another_writes(path, what);
}

NewFile::NewFile(NewFile&& other) noexcept
    : directory_(std::move(other.directory_)),
      fd_(std::move(other.fd_)),
      path_(std::move(other.path_)),
      what_(std::move(other.what_)),
      published_(other.published_) {}

NewFile::~NewFile() {
  if (fd_ && in_place()) ::unlink(new_name(path_).c_str());
}

Status NewFile::write(std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd_.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return fail_errno(ErrorKind::System, "{} {}: cannot write", what_, path_);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Status NewFile::sync() const {
  if (::fsync(fd_.get()) != 0)
    return fail_errno(ErrorKind::System, "{} {}: cannot put it on stable storage", what_, path_);
  return {};
}

Status NewFile::sync_name() const { return sync_directory(directory_, path_, what_); }

bool NewFile::in_place() const noexcept { return fd_ && names_file(new_name(path_), fd_.get()); }

Status NewFile::check_in_place() const {
  if (in_place()) return {};
  return fail(ErrorKind::State, "{} {}: {} was removed or replaced while it was written; try again", what_, path_,
              new_name(path_));
}

Status NewFile::has_its_name() {
  fd_.reset();
  published_ = true;
  return sync_name();
}

Status NewFile::publish() {
  if (auto checked = check_in_place(); !checked) return checked;
  const std::string name = new_name(path_);
  if (std::rename(name.c_str(), path_.c_str()) != 0)
    return fail_errno(ErrorKind::System, "{}: cannot rename {} to {}", what_, name, path_);
  return has_its_name();
}

Status NewFile::publish_unless_there() {
  if (auto checked = check_in_place(); !checked) return checked;
  const std::string name = new_name(path_);
  if (rename_unless_there(name, path_)) return has_its_name();
  if (errno == EEXIST)
    return fail(ErrorKind::State, "{} {} was made by another process meanwhile; delete it, or give another path", what_,
                path_);
  return fail_errno(ErrorKind::System, "{}: cannot rename {} to {}", what_, name, path_);
}

PairOutcome publish_pair(NewFile& memory, NewFile& state) {
  constexpr std::string_view kCounts =
      "the new snapshot is in place, but a crash of the host may bring the old one back";
  if (auto done = memory.sync(); !done) return {.status = std::move(done)};
  if (auto done = state.sync(); !done) return {.status = std::move(done)};
  // The memory must be found under this name as soon as the state counts.
  if (auto done = memory.sync_name(); !done) return {.status = std::move(done)};
  if (!memory.in_place())
    return {.status = fail(ErrorKind::State, "{} was removed or replaced while it was written; try again",
                           new_name(memory.path()))};
  auto named = state.publish();
  if (!state.published()) return {.status = std::move(named)};
  // From here on the new snapshot counts: open_memory_file() finds its memory under either name.
  if (!named) {
    // If the state's rename is lost in a crash, the old state needs the old memory.
    memory.keep();
    return {.counts = true,
            .status = propagate(named, fmt::format("{}; its memory is {}", kCounts, new_name(memory.path())))};
  }
  auto memory_named = memory.publish();
  if (memory.published() && memory_named) return {.counts = true};
  if (memory.published()) return {.counts = true, .status = propagate(memory_named, kCounts)};
  if (memory.in_place()) {
    memory.keep();
    return {.counts = true,
            .status = propagate(memory_named, fmt::format("the new snapshot is in place, and its memory is {}",
                                                          new_name(memory.path())))};
  }
  // Another process that wants the same pair may have given it its name: finish_interrupted_pair().
  if (names_file(memory.path(), memory.fd().get())) {
    memory.keep();
    return {.counts = true};
  }
  return {.status = propagate(memory_named, "the new snapshot is lost")};
}

}  // namespace mayfly
