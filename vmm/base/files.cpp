#include "vmm/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <string_view>

namespace mayfly {

Result<std::string> read_file(const std::string& path, const std::string& what, std::size_t longest) {
  const OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (!file) return fail_errno(ErrorKind::System, "{} cannot be opened", what);
  // Only to open a pipe without a writer is not to wait.
  if (::fcntl(file.get(), F_SETFL, O_RDONLY) != 0) return fail_errno(ErrorKind::System, "{} cannot be read", what);
  std::string text;
  std::array<char, 4096> piece;
  ssize_t count = 0;
  while (text.size() <= longest && (count = ::read(file.get(), piece.data(), piece.size())) > 0)
    text.append(piece.data(), static_cast<std::size_t>(count));
  if (count < 0) return fail_errno(ErrorKind::System, "{} cannot be read", what);
  if (text.size() > longest) return fail(ErrorKind::TooLarge, "{} has over {} bytes", what, longest);
  return text;
}

bool is_same_file(const struct stat& one, const struct stat& other) noexcept {
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

bool is_same_file(const std::string& one, const std::string& other) noexcept {
  struct stat first{};
  struct stat second{};
  return ::stat(one.c_str(), &first) == 0 && ::stat(other.c_str(), &second) == 0 && is_same_file(first, second);
}

std::size_t read_all_at(int file, std::span<std::byte> bytes, std::uint64_t offset) noexcept {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::pread(file, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = 0;
    if (count <= 0) break;
    done += static_cast<std::size_t>(count);
  }
  return done;
}

bool write_all_at(int file, std::span<const std::byte> bytes, std::uint64_t offset) noexcept {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = ENOSPC;
    if (count <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return true;
}

OwnedFd nonblocking_twin(int fd, int access) noexcept {
  struct stat file{};
  if (::fstat(fd, &file) != 0 || !(S_ISFIFO(file.st_mode) || ::isatty(fd) == 1)) return OwnedFd{};
  constexpr std::string_view kDirectory = "/proc/self/fd/";
  std::array<char, 32> path{};
  std::ranges::copy(kDirectory, path.begin());
  std::to_chars(path.data() + kDirectory.size(), path.data() + path.size() - 1, fd);
  return OwnedFd{::open(path.data(), access | O_NONBLOCK | O_CLOEXEC | O_NOCTTY)};
}

std::string new_name(const std::string& path) { return path + std::string{kNewSuffix}; }

bool rename_unless_there(const std::string& from, const std::string& to) noexcept {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return true;
  if (errno != EINVAL) return false;  // NFS has no such flag
  struct stat status{};
  if (::lstat(to.c_str(), &status) == 0) {
    errno = EEXIST;
    return false;
  }
  return std::rename(from.c_str(), to.c_str()) == 0;
}

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

Status sync_directory(const OwnedFd& directory, const std::string& path, std::string_view what) {
  // EINVAL: a file system that has nothing to sync.
  if (::fsync(directory.get()) != 0 && errno != EINVAL)
    return fail_errno(ErrorKind::System, "{} {}: cannot put its name on stable storage", what, path);
  return {};
}

Result<OwnedFd> open_directory_of(const std::string& path, std::string_view what) {
  OwnedFd directory{::open(directory_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!directory)
    return fail_errno(ErrorKind::System, "{} {}: its directory {} cannot be opened", what, path, directory_of(path));
  return directory;
}

Status sync_directory_of(const std::string& path, std::string_view what) {
  auto directory = open_directory_of(path, what);
  if (!directory) return propagate(directory);
  return sync_directory(*directory, path, what);
}

}  // namespace mayfly
