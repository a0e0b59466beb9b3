#include "vmm/base/run_program.h"

#include "vmm/base/owned_fd.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX leaves it to the program

namespace mayfly {
namespace {

constexpr std::size_t kMostSaid = std::size_t{64} << 10;

Result<pid_t> spawn_program(std::vector<std::string>& words, int output) {
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  pid_t child = -1;
  const int error_number = ::posix_spawn(&child, argv.front(), &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  errno = error_number;
  if (errno != 0) return fail_errno(ErrorKind::System, "cannot run {}", words.front());
  return child;
}

}  // namespace

Result<ProgramEnd> run_program(std::vector<std::string> words) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(ErrorKind::System, "cannot make a pipe");
  const OwnedFd read_end{ends[0]};
  OwnedFd write_end{ends[1]};
  const pid_t child = TRY(spawn_program(words, write_end.get()));
  write_end.reset();
  ProgramEnd end;
  std::array<char, 4096> piece;
  for (;;) {
    const ssize_t count = ::read(read_end.get(), piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    end.said.append(piece.data(), std::min(static_cast<std::size_t>(count), kMostSaid - end.said.size()));
  }
  while (::waitpid(child, &end.status, 0) < 0)
    if (errno != EINTR) return fail_errno(ErrorKind::System, "cannot learn how {} has ended", words.front());
  return end;
}

}  // namespace mayfly
