#include "rootfs-tools/template/make_layer.h"

#include "vmm/base/owned_fd.h"
#include "vmm/base/printable.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX leaves it to the program

namespace mayfly::image {
namespace {

/// Where it is on hosts whose users have no sbin in their PATH, too.
constexpr std::array kPrograms{"/usr/sbin/mke2fs", "/sbin/mke2fs", "/usr/bin/mke2fs"};

const char* program() {
  for (const char* each : kPrograms)
    if (::access(each, X_OK) == 0) return each;
  return nullptr;
}

/// What a program says on both streams, and how it ends.
struct Outcome {
  int status = 0;
  std::string text;
};

Result<Outcome> run(const char* path, char* const* words) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(ErrorKind::System, "cannot make a pipe");
  const OwnedFd read_end{ends[0]};
  OwnedFd write_end{ends[1]};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDERR_FILENO);
  pid_t child = -1;
  errno = ::posix_spawn(&child, path, &actions, nullptr, words, environ);
  const int error_number = errno;
  ::posix_spawn_file_actions_destroy(&actions);
  errno = error_number;
  if (errno != 0) return fail_errno(ErrorKind::System, "cannot run {}", path);
  write_end.reset();
  Outcome outcome;
  std::array<char, 4096> piece;
  for (;;) {
    const ssize_t count = ::read(read_end.get(), piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    outcome.text.append(piece.data(), static_cast<std::size_t>(count));
  }
  while (::waitpid(child, &outcome.status, 0) < 0 && errno == EINTR) {
  }
  return outcome;
}

}  // namespace

Status make_layer(const std::string& path, std::uint64_t bytes) {
  const char* const found = program();
  if (found == nullptr)
    return fail(ErrorKind::NotFound, "mke2fs is missing, which makes the layer for writes: install e2fsprogs");
  {
    const OwnedFd file{::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)};
    if (!file || ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0)
      return fail_errno(ErrorKind::System, "cannot make {} of {} bytes", path, bytes);
  }
  // No journal: a clone that ends goes with its overlay. Tables are zeroed now, which are holes, and not by each clone.
  std::array<std::string, 11> words{
      "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-Elazy_itable_init=0", path};
  std::array<char*, words.size() + 1> argv{};
  for (std::size_t i = 0; i < words.size(); ++i) argv[i] = words[i].data();
  auto outcome = run(found, argv.data());
  if (!outcome) return std::unexpected(outcome.error());
  if (WIFEXITED(outcome->status) && WEXITSTATUS(outcome->status) == 0) return {};
  return fail(ErrorKind::System, "mke2fs cannot make {}: {}", path, printable(outcome->text, 500));
}

}  // namespace mayfly::image
