#include "tests/support/files.h"

#include "tests/support/child_process.h"
#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <iterator>

namespace mayfly::testing {

std::string content_of(const std::string& path) {
  const OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  std::string text;
  std::array<char, 4096> piece{};
  ssize_t count = 0;
  while ((count = ::read(file.get(), piece.data(), piece.size())) > 0)
    text.append(piece.data(), static_cast<std::size_t>(count));
  if (count < 0) give_up("cannot read " + path);
  return text;
}

std::string make_file(const std::string& path, const std::string& content) {
  const OwnedFd file{::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
  if (::write(file.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size()))
    give_up("cannot write " + path);
  return path;
}

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all{"/proc/self/fd"};
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

}  // namespace mayfly::testing
