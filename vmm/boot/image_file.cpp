#include "vmm/boot/image_file.h"

#include "vmm/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

namespace mayfly {
namespace {

std::string_view remedy_of(BootFileRole role) noexcept {
  return role == BootFileRole::Kernel ? "give the path of an ELF vmlinux or a bzImage"
                                      : "give the path of an initramfs archive";
}

std::string_view type_text(mode_t mode) noexcept {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISBLK(mode)) return "a block device";
  if (S_ISCHR(mode)) return "a character device";
  return "not a regular file";
}

/// The file's size; errors where it is nothing to boot from.
Result<std::uint64_t> usable_size(int fd, BootFileRole role, const std::string& path) {
  struct stat status = {};
  if (::fstat(fd, &status) != 0) return fail_errno(ErrorKind::System, "cannot look at {} {}", field_of(role), path);
  if (!S_ISREG(status.st_mode))
    return fail(ErrorKind::InvalidArgument, "{} {} is {}; {}", field_of(role), path, type_text(status.st_mode),
                remedy_of(role));
  if (status.st_size <= 0)
    return fail(ErrorKind::InvalidArgument, "{} {} is empty; {}", field_of(role), path, remedy_of(role));
  return static_cast<std::uint64_t>(status.st_size);
}

}  // namespace

std::string_view field_of(BootFileRole role) noexcept {
  return role == BootFileRole::Kernel ? "kernel_image_path" : "initrd_path";
}

Result<OwnedFd> open_boot_file(const std::string& path, BootFileRole role) {
  if (path.empty()) return fail(ErrorKind::InvalidArgument, "{} is empty; {}", field_of(role), remedy_of(role));
  if (path.find('\0') != std::string::npos)
    return fail(ErrorKind::InvalidArgument, "{} contains a NUL byte; {}", field_of(role), remedy_of(role));
  OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (!file) {
    if (errno == ENOENT)
      return fail(ErrorKind::NotFound, "{} {} does not exist; {}", field_of(role), path, remedy_of(role));
    if (errno == EACCES)
      return fail(ErrorKind::Permission,
                  "{} {} cannot be read by user {}; allow it to read the file and to search the directories above",
                  field_of(role), path, ::geteuid());
    return fail_errno(ErrorKind::System, "cannot open {} {}", field_of(role), path);
  }
  if (auto size = usable_size(file.get(), role, path); !size) return propagate(size);
  return file;
}

Result<ImageFile> ImageFile::of(int fd, BootFileRole role, const std::string& path) {
  auto size = usable_size(fd, role, path);
  if (!size) return propagate(size);
  return ImageFile{fd, *size, fmt::format("{} {}", field_of(role), path)};
}

Status ImageFile::read(std::uint64_t offset, std::span<std::byte> target, std::string_view what) const {
  if (!holds(offset, target.size()))
    return fail(ErrorKind::InvalidArgument,
                "{} is truncated: it has {} bytes, and {} should be at [{:#x}, +{:#x}); copy or build it again", name_,
                size_, what, offset, target.size());
  if (read_all_at(fd_, target, offset) == target.size()) return {};
  if (errno != 0) return fail_errno(ErrorKind::System, "cannot read {} of {}", what, name_);
  return fail(ErrorKind::InvalidArgument, "{} was shortened while it was read; {} is gone", name_, what);
}

}  // namespace mayfly
