#include "rootfs-tools/template/build_place.h"

#include "vmm/base/files.h"
#include "vmm/base/text.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include <fmt/format.h>

namespace mayfly::image {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBuilder = "builder.pid";
/// Each time another build must have ended in between.
constexpr int kMostTakes = 100;

bool is_still_at(const OwnedFd& directory, const std::string& path) {
  struct stat opened{};
  struct stat named{};
  return ::fstat(directory.get(), &opened) == 0 && ::lstat(path.c_str(), &named) == 0 && is_same_file(opened, named);
}

std::unexpected<Error> is_taken(const std::string& output, const std::string& directory) {
  const auto text = read_file(fs::path{directory} / kBuilder, "the builder", 64);
  const auto process = text ? whole_number<pid_t>(*text) : std::nullopt;
  return fail(ErrorKind::State, "--output {}: {} builds it, in {}; wait for its end, or give another path", output,
              process ? fmt::format("process {}", *process) : "another process", directory);
}

}  // namespace

Result<BuildPlace> BuildPlace::take(const std::string& output) {
  const std::string directory = fs::absolute(new_name(output));
  for (int take = 0; take < kMostTakes; ++take) {
    if (::mkdir(directory.c_str(), 0777) != 0 && errno != EEXIST)
      return fail_errno(ErrorKind::System, "--output {}: cannot make {}", output, directory);
    OwnedFd opened{::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
    if (!opened && errno == ENOENT) continue;  // it has just become the template, or was removed
    if (!opened)
      return fail_errno(ErrorKind::System, "--output {}: {} must be a directory, or not be there", output, directory);
    if (::flock(opened.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return is_taken(output, directory);
      if (errno != EINTR) return fail_errno(ErrorKind::System, "--output {}: cannot lock {}", output, directory);
      continue;
    }
    if (is_still_at(opened, directory)) return BuildPlace{directory, std::move(opened)};
  }
  return is_taken(output, directory);
}

Status BuildPlace::clear() const {
  std::error_code error;
  for (fs::directory_iterator at{path_, error}, end; !error && at != end; at.increment(error)) {
    fs::remove_all(at->path(), error);
    if (error) break;
  }
  if (error)
    return fail(ErrorKind::System, "{}: what an earlier build has left cannot be removed: {}", path_, error.message());
  const std::string path = fs::path{path_} / kBuilder;
  const std::string text = std::to_string(::getpid());
  const OwnedFd file{::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)};
  if (file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) return {};
  return fail_errno(ErrorKind::System, "cannot write {}", path);
}

Status BuildPlace::hand_over(const fs::path& path) {
  if (::unlink((path / kBuilder).c_str()) == 0) return {};
  return fail_errno(ErrorKind::System, "cannot remove {}", (path / kBuilder).native());
}

}  // namespace mayfly::image
