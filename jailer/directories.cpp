#include "jailer/directories.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <utility>

namespace mayfly::jailer {
namespace {

OwnedFd open_beneath(int parent, const char* name, int flags, std::uint64_t resolve = 0) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_DIRECTORY | O_CLOEXEC);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | resolve;
  return OwnedFd{static_cast<int>(::syscall(SYS_openat2, parent, name, &how, sizeof how))};
}

std::unexpected<Error> cannot_open(const std::string& what) {
  switch (errno) {
    case ELOOP:
      return fail(ErrorKind::InvalidArgument, "{} is a symbolic link; give the directory that it leads to", what);
    case ENOENT:
      return fail(ErrorKind::NotFound, "there is no directory {}; make it, as root", what);
    case ENOTDIR:
      return fail(ErrorKind::InvalidArgument, "{} is not a directory", what);
    case ENOSYS:
      return fail(ErrorKind::Unsupported, "this kernel has no openat2; Mayfly needs Linux 5.19");
    default:
      return fail_errno(ErrorKind::System, "cannot open the directory {}", what);
  }
}

/// Others may make files where the sticky bit is set (/tmp), but neither rename nor remove ours.
Status check_owner(int directory, const std::string& what) {
  struct stat status{};
  if (::fstat(directory, &status) != 0) return fail_errno(ErrorKind::System, "cannot look at {}", what);
  if (status.st_uid != 0 && status.st_uid != ::geteuid())
    return fail(ErrorKind::Permission,
                "{} belongs to the user {}, who could redirect a jail; make it root's (chown root)", what,
                status.st_uid);
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0 && (status.st_mode & S_ISVTX) == 0)
    return fail(ErrorKind::Permission,
                "{} can be written to by others, who could redirect a jail; take that away (chmod go-w)", what);
  return {};
}

Result<OwnedFd> open_checked(int parent, const char* name, int flags, const std::string& what) {
  OwnedFd directory = open_beneath(parent, name, flags);
  if (!directory) return cannot_open(what);
  if (auto good = check_owner(directory.get(), what); !good) return propagate(good);
  return directory;
}

struct CloseDirectory {
  void operator()(DIR* stream) const noexcept { ::closedir(stream); }
};

/// How many directories of a tree are open at once. Whoever filled it may have nested more than we can open.
constexpr std::size_t kOpenAtOnce = 64;

/// The removal of one tree: depth first, and what lies too deep for that is moved up into the tree's top directory, of
/// which there is another pass then.
class TreeRemoval {
 public:
  Status remove(int parent, const std::string& name, const std::string& what, std::size_t depth = 0) {
    if (::unlinkat(parent, name.c_str(), 0) == 0 || errno == ENOENT) return {};
    // Linux says EISDIR, POSIX EPERM; anything else is about a file.
    if (errno != EISDIR && errno != EPERM) return cannot_remove(what);
    if (depth == kOpenAtOnce) return move_up(parent, name, what);
    OwnedFd directory = open_beneath(parent, name.c_str(), O_RDONLY, RESOLVE_NO_XDEV);
    if (!directory) {
      if (errno == EXDEV) return fail(ErrorKind::State, "{} is a mount; unmount it first", what);
      return fail_errno(ErrorKind::System, "cannot open the directory {}", what);
    }
    if (auto emptied = empty(std::move(directory), what, depth); !emptied) return emptied;
    if (::unlinkat(parent, name.c_str(), AT_REMOVEDIR) == 0) return {};
    return cannot_remove(what);
  }

 private:
  static std::unexpected<Error> cannot_remove(const std::string& what) {
    if (errno == EBUSY) return fail(ErrorKind::State, "{} is a mount; unmount it first", what);
    return fail_errno(ErrorKind::System, "cannot remove {}", what);
  }

  /// Removes what is in a directory that was opened for reading.
  Status empty(OwnedFd directory, const std::string& what, std::size_t depth) {
    const std::unique_ptr<DIR, CloseDirectory> stream{::fdopendir(directory.get())};
    if (!stream) return fail_errno(ErrorKind::System, "cannot read the directory {}", what);
    const int fd = directory.release();  // the stream's now
    if (depth == 0) top_ = fd;
    if (auto passed = remove_entries(stream.get(), fd, what, depth); !passed) return passed;
    while (depth == 0 && std::exchange(moved_, false)) {
      ::rewinddir(stream.get());
      if (auto passed = remove_entries(stream.get(), fd, what, depth); !passed) return passed;
    }
    return {};
  }

  Status remove_entries(DIR* stream, int fd, const std::string& what, std::size_t depth) {
    while (const dirent* entry = ::readdir(stream)) {  // NOLINT(concurrency-mt-unsafe): a stream of our own
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      if (auto removed = remove(fd, name, fmt::format("{}/{}", what, name), depth + 1); !removed) return removed;
    }
    return {};
  }

  /// A name that is in use is what an earlier removal left, or whoever filled the tree: it is not ours to replace.
  Status move_up(int parent, const std::string& name, const std::string& what) {
    int moved = -1;
    do moved = ::renameat2(parent, name.c_str(), top_, fmt::format("moved-up-{}", next_++).c_str(), RENAME_NOREPLACE);
    while (moved != 0 && errno == EEXIST);
    if (moved != 0) return cannot_remove(what);
    moved_ = true;
    return {};
  }

  int top_ = -1;  // open while there is something in it to remove
  bool moved_ = false;
  std::size_t next_ = 0;
};

}  // namespace

std::vector<std::string_view> names_of(std::string_view path) {
  std::vector<std::string_view> names;
  while (path.ends_with('/')) path.remove_suffix(1);
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    names.push_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

std::string last_name(std::string_view path) { return std::string{path.substr(path.rfind('/') + 1)}; }

bool is_file_name(std::string_view name) noexcept {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

Result<OwnedFd> open_trusted(std::string_view field, std::string_view path) {
  if (!path.starts_with('/')) return fail(ErrorKind::InvalidArgument, "{} '{}' must be an absolute path", field, path);
  OwnedFd at{::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)};
  if (!at) return fail_errno(ErrorKind::System, "{}: cannot open /", field);
  std::string walked;
  for (const std::string_view name : names_of(path)) {
    if (name.empty() || name == ".") continue;
    if (!is_file_name(name)) return fail(ErrorKind::InvalidArgument, "{} '{}' must not contain '..'", field, path);
    walked.append("/").append(name);
    auto next = open_checked(at.get(), std::string{name}.c_str(), O_PATH, walked);
    if (!next) return propagate(next, field);
    at = std::move(*next);
  }
  return at;
}

Result<OwnedFd> open_directory(int parent, const std::string& name, const std::string& what) {
  return open_checked(parent, name.c_str(), O_RDONLY, what);
}

Result<Directory> make_directory(int parent, const std::string& name, mode_t mode, const std::string& what) {
  Directory directory;
  directory.made = ::mkdirat(parent, name.c_str(), mode) == 0;
  if (!directory.made && errno != EEXIST) return fail_errno(ErrorKind::System, "cannot make the directory {}", what);
  auto opened = open_directory(parent, name, what);
  if (!opened) {
    if (directory.made) ::unlinkat(parent, name.c_str(), AT_REMOVEDIR);
    return propagate(opened);
  }
  directory.fd = std::move(*opened);
  return directory;
}

Result<OwnedFd> make_directory(int parent, const std::string& name, mode_t mode, const std::string& what, Undo& undo) {
  auto directory = make_directory(parent, name, mode, what);
  if (!directory) return propagate(directory);
  if (directory->made) undo.add([in = duplicate(parent), name] { ::unlinkat(in.get(), name.c_str(), AT_REMOVEDIR); });
  return std::move(directory->fd);
}

OwnedFd duplicate(int fd) { return OwnedFd{::fcntl(fd, F_DUPFD_CLOEXEC, 3)}; }

Status remove_tree(int parent, const std::string& name, const std::string& what) {
  return TreeRemoval{}.remove(parent, name, what);
}

}  // namespace mayfly::jailer
