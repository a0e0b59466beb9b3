#include "rootfs-tools/image/output_file.h"

#include "vmm/base/files.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include <fmt/format.h>

namespace mayfly::image {
namespace {

constexpr mode_t kOutputMode = 0644;  // machines of other users read a base

}  // namespace

Result<OutputFile> OutputFile::create(const std::string& path, std::string_view what, bool is_named) {
  struct stat status{};
  if (path.empty() || path.ends_with('/') || (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)))
    return fail(ErrorKind::InvalidArgument, "{} '{}' must be the name of a file", what, path);
  const std::string directory = directory_of(path);
  OwnedFd file;
  if (!is_named) {
    file = OwnedFd{::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kOutputMode)};
    if (file) return OutputFile{std::move(file), path, what, false};
    if (errno != EOPNOTSUPP && errno != EISDIR)
      return fail_errno(ErrorKind::System, "{} {}: nothing can be made in {}", what, path, directory);
  }
  const std::string made = new_name(path);
  (void)::unlink(made.c_str());  // of a run that was killed
  file = OwnedFd{::open(made.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, kOutputMode)};
  if (!file) return fail_errno(ErrorKind::System, "{} {}: nothing can be made in {}", what, path, directory);
  return OutputFile{std::move(file), path, what, true};
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : file_(std::move(other.file_)),
      path_(std::move(other.path_)),
      what_(std::move(other.what_)),
      is_named_(std::exchange(other.is_named_, false)) {}

OutputFile::~OutputFile() {
  if (is_named_ && has_its_name()) (void)::unlink(new_name(path_).c_str());
}

bool OutputFile::has_its_name() const {
  struct stat ours{};
  struct stat named{};
  return file_ && ::fstat(file_.get(), &ours) == 0 && ::lstat(new_name(path_).c_str(), &named) == 0 &&
         is_same_file(ours, named);
}

Status OutputFile::publish() {
  if (::fsync(file_.get()) != 0)
    return fail_errno(ErrorKind::System, "{} {} cannot be put on stable storage", what_, path_);
  const std::string made = new_name(path_);
  if (!is_named_) {
    const std::string self = fmt::format("/proc/self/fd/{}", file_.get());
    (void)::unlink(made.c_str());
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, made.c_str(), AT_SYMLINK_FOLLOW) != 0)
      return fail_errno(ErrorKind::System, "{} {} cannot be given the name {}", what_, path_, made);
    is_named_ = true;
  }
  if (!has_its_name())
    return fail(ErrorKind::State, "{} {} is made by another process at the same time; start one after the other", what_,
                path_);
  if (std::rename(made.c_str(), path_.c_str()) != 0)
    return fail_errno(ErrorKind::System, "{} {} cannot be given its name", what_, path_);
  is_named_ = false;
  return sync_directory_of(path_, what_);
}

}  // namespace mayfly::image
