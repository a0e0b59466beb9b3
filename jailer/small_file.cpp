#include "jailer/small_file.h"

#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace mayfly::jailer {

Result<std::string> read_at(int directory, const std::string& name) {
  const OwnedFd file{::openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC)};
  if (!file) return fail_errno(ErrorKind::System, "cannot open {}", name);
  std::string text;
  std::array<char, 4096> piece{};
  ssize_t count = 0;
  while ((count = ::read(file.get(), piece.data(), piece.size())) > 0)
    text.append(piece.data(), static_cast<std::size_t>(count));
  if (count < 0) return fail_errno(ErrorKind::System, "cannot read {}", name);
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

int try_write_at(int directory, const std::string& name, std::string_view value) {
  const OwnedFd file{::openat(directory, name.c_str(), O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC)};
  if (!file) return errno;
  const ssize_t count = ::write(file.get(), value.data(), value.size());
  if (count < 0) return errno;
  return static_cast<std::size_t>(count) == value.size() ? 0 : EIO;
}

Status write_at(int directory, const std::string& name, std::string_view value) {
  errno = try_write_at(directory, name, value);
  if (errno == 0) return {};
  if (errno == ENOENT) return fail(ErrorKind::NotFound, "there is no file {}", name);
  return fail_errno(ErrorKind::InvalidArgument, "cannot write '{}' to {}", value, name);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace mayfly::jailer
