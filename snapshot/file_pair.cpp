#include "snapshot/file_pair.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace mayfly {
namespace {

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

}  // namespace

std::string new_name(const std::string& path) { return path + ".mayfly-new"; }

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
  OwnedFd directory{::open(directory_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!directory)
    return fail_errno(ErrorKind::System, "{} {}: its directory {} cannot be opened", what, path, directory_of(path));
  const std::string name = new_name(path);
  if (::unlink(name.c_str()) != 0 && errno != ENOENT)
    return fail_errno(ErrorKind::System, "{}: cannot remove {}, which was left there", what, name);
  OwnedFd fd{::open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)};
  if (!fd) return fail_errno(ErrorKind::System, "{}: cannot make {}", what, name);
  return NewFile{std::move(directory), std::move(fd), path, what};
}

NewFile::NewFile(NewFile&& other) noexcept
    : directory_(std::move(other.directory_)),
      fd_(std::move(other.fd_)),
      path_(std::move(other.path_)),
      what_(std::move(other.what_)),
      published_(other.published_) {}

NewFile::~NewFile() {
  if (fd_) ::unlink(new_name(path_).c_str());
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

Status NewFile::publish() {
  const std::string name = new_name(path_);
  if (std::rename(name.c_str(), path_.c_str()) != 0)
    return fail_errno(ErrorKind::System, "{}: cannot rename {} to {}", what_, name, path_);
  fd_.reset();
  published_ = true;
  // EINVAL: a file system that has nothing to sync.
  if (::fsync(directory_.get()) != 0 && errno != EINVAL)
    return fail_errno(ErrorKind::System, "{} {}: cannot put its name on stable storage", what_, path_);
  return {};
}

}  // namespace mayfly
