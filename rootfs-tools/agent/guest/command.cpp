#include "rootfs-tools/agent/guest/command.h"

#include "vmm/base/files.h"
#include "vmm/base/printable.h"
#include "vmm/base/process_fd.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace mayfly::agent {
namespace {

constexpr const char* kPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr std::size_t kLongestAccounts = std::size_t{1} << 20;

Refusal refusal_of(const Error& error) { return {.reason = RefusalReason::Other, .sentence = error.message}; }

/// What the started process says when it cannot become the command.
struct Failure {
  enum class Step { Descriptors, Terminal, User, Directory, Program };
  Step step;
  int error;
};

Refusal refusal_of(const Failure& failure, const ExecRequest& request, const std::string& directory) {
  const std::string text = errno_text(failure.error);
  switch (failure.step) {
    case Failure::Step::Descriptors:
      return {.sentence = "the command cannot be given its descriptors: " + text};
    case Failure::Step::Terminal:
      return {.sentence = "the command cannot be given a terminal: " + text};
    case Failure::Step::User:
      return {.sentence = "the command cannot be run as its user: " + text};
    case Failure::Step::Directory:
      return {.sentence = fmt::format("the command cannot be run in {}: {}", directory, text)};
    case Failure::Step::Program:
      break;
  }
  const bool is_missing = failure.error == ENOENT;
  return {.reason = is_missing ? RefusalReason::NotFound : RefusalReason::NotExecutable,
          .sentence = fmt::format("cannot run {}: {}", printable(request.command.front(), kLongestShownName), text)};
}

/// A variable that is set already gets the new value.
void set_variable(std::vector<std::string>& environment, const std::string& setting) {
  const std::string_view name = std::string_view{setting}.substr(0, setting.find('=') + 1);
  const auto found =
      std::ranges::find_if(environment, [name](const std::string& each) { return each.starts_with(name); });
  if (found == environment.end())
    environment.push_back(setting);
  else
    *found = setting;
}

std::vector<std::string> environment_of(const ExecRequest& request, const Defaults& defaults,
                                        const image::RunUser& user) {
  std::vector<std::string> environment = {kPath, "HOME=" + user.home};
  if (request.tty) environment.emplace_back("TERM=xterm");
  for (const std::string& each : defaults.environment)
    // Another user has another home.
    if (request.user.empty() || !each.starts_with("HOME=")) set_variable(environment, each);
  for (const std::string& each : request.environment) set_variable(environment, each);
  return environment;
}

Result<image::RunUser> user_of(const ExecRequest& request, const Defaults& defaults) {
  if (request.user.empty()) return defaults.user;
  // Where they cannot be read, numbers are understood.
  const auto passwd = read_file("/etc/passwd", "/etc/passwd", kLongestAccounts);
  const auto group = read_file("/etc/group", "/etc/group", kLongestAccounts);
  return image::find_user(request.user, passwd.value_or(""), group.value_or(""));
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (std::string& each : texts) pointers.push_back(each.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// The ends that the command gets.
struct Ends {
  std::array<OwnedFd, 3> of_command;
  Command ours;
};

Result<Ends> make_pipes() {
  Ends ends;
  std::array<OwnedFd*, 3> own = {&ends.ours.input, &ends.ours.output, &ends.ours.errors};
  for (std::size_t i = 0; i < own.size(); ++i) {
    std::array<int, 2> pipe{};
    if (::pipe2(pipe.data(), O_CLOEXEC) != 0) return fail_errno(ErrorKind::System, "cannot make a pipe");
    const bool is_input = i == 0;
    ends.of_command[i] = OwnedFd{pipe[is_input ? 0 : 1]};
    *own[i] = OwnedFd{pipe[is_input ? 1 : 0]};
    ::fcntl(own[i]->get(), F_SETFL, O_NONBLOCK);
  }
  return ends;
}

Result<Ends> make_terminal(const WindowSize& size) {
  Ends ends;
  ends.ours.tty = true;
  ends.ours.input = OwnedFd{::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)};
  const int master = ends.ours.input.get();
  int unlocked = 0;
  if (master < 0 || ::ioctl(master, TIOCSPTLCK, &unlocked) != 0)
    return fail_errno(ErrorKind::System, "cannot make a terminal; is devpts mounted at /dev/pts?");
  ends.of_command[0] = OwnedFd{::ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)};
  for (const std::size_t i : {std::size_t{1}, std::size_t{2}})
    ends.of_command[i] = OwnedFd{::fcntl(ends.of_command[0].get(), F_DUPFD_CLOEXEC, 3)};
  ends.ours.output = OwnedFd{::fcntl(master, F_DUPFD_CLOEXEC, 3)};
  const winsize window{.ws_row = size.rows, .ws_col = size.columns, .ws_xpixel = 0, .ws_ypixel = 0};
  if (!ends.of_command[2] || !ends.ours.output || ::ioctl(master, TIOCSWINSZ, &window) != 0)
    return fail_errno(ErrorKind::System, "cannot make a terminal");
  return ends;
}

void reset_signals() {
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  sigset_t none{};
  ::sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
}

/// How the command is to begin.
struct Plan {
  std::vector<char*> words;
  std::vector<char*> environment;
  const image::RunUser& user;
  const std::string& directory;
};

/// In the new process. Returns where it fails.
Failure become(const Plan& plan, const Ends& ends) {
  ::setsid();
  for (std::size_t i = 0; i < ends.of_command.size(); ++i)
    if (::dup2(ends.of_command[i].get(), static_cast<int>(i)) < 0) return {Failure::Step::Descriptors, errno};
  if (ends.ours.tty && ::ioctl(STDIN_FILENO, TIOCSCTTY, 0) != 0) return {Failure::Step::Terminal, errno};
  // Pipes and terminals are their maker's alone; the user must be able to open /dev/stderr, or its terminal, by name.
  for (const int each : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    (void)!::fchown(each, plan.user.uid, static_cast<gid_t>(-1));
  // As root, as init does: the user may lack the right to search a parent. A network file system may refuse root instead.
  const bool has_entered = ::chdir(plan.directory.c_str()) == 0;
  const std::vector<gid_t> groups{plan.user.groups.begin(), plan.user.groups.end()};
  // Who is not root, as in tests, is no other user either.
  if ((::geteuid() == 0 && ::setgroups(groups.size(), groups.data()) != 0) || ::setgid(plan.user.gid) != 0 ||
      ::setuid(plan.user.uid) != 0)
    return {Failure::Step::User, errno};
  if (!has_entered && ::chdir(plan.directory.c_str()) != 0) return {Failure::Step::Directory, errno};
  reset_signals();
  environ = const_cast<char**>(plan.environment.data());  // whose PATH says where programs are
  ::execvp(plan.words.front(), plan.words.data());
  return {Failure::Step::Program, errno};
}

}  // namespace

std::expected<Command, Refusal> start_command(const ExecRequest& request, const Defaults& defaults) {
  const auto user = user_of(request, defaults);
  if (!user) return std::unexpected(refusal_of(user.error()));
  auto ends = request.tty ? make_terminal(request.size) : make_pipes();
  if (!ends) return std::unexpected(refusal_of(ends.error()));
  std::array<int, 2> report{};
  if (::pipe2(report.data(), O_CLOEXEC) != 0) return std::unexpected(Refusal{.sentence = "cannot make a pipe"});
  const OwnedFd reads{report[0]};
  OwnedFd writes{report[1]};
  auto words = request.command;
  auto environment = environment_of(request, defaults, *user);
  const std::string& directory = request.directory.empty() ? defaults.directory : request.directory;
  const pid_t pid = ::fork();
  if (pid < 0) return std::unexpected(Refusal{.sentence = "the guest cannot start a process: " + errno_text(errno)});
  if (pid == 0) {
    const Failure failure = become(Plan{.words = pointers_to(words),
                                        .environment = pointers_to(environment),
                                        .user = *user,
                                        .directory = directory},
                                   *ends);
    (void)!::write(writes.get(), &failure, sizeof failure);
    ::_exit(127);
  }
  writes.reset();
  for (OwnedFd& each : ends->of_command) each.reset();
  Failure failure{};
  ssize_t count = 0;
  while ((count = ::read(reads.get(), &failure, sizeof failure)) < 0 && errno == EINTR) {
  }
  if (count == static_cast<ssize_t>(sizeof failure)) {
    ::waitpid(pid, nullptr, 0);
    return std::unexpected(refusal_of(failure, request, directory));
  }
  ends->ours.pid = pid;
  ends->ours.process = open_process(pid);
  if (!ends->ours.process) {
    ::kill(-pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return std::unexpected(
        Refusal{.sentence = "the guest's kernel has no pidfd_open(); it must be Linux 5.3 or later"});
  }
  return std::move(ends->ours);
}

}  // namespace mayfly::agent
