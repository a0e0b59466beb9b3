#include "rootfs-tools/init/programs.h"

#include "rootfs-tools/init/message.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>

namespace mayfly::guest_init {
namespace {

constexpr std::array kSignals{SIGCHLD, SIGUSR1, SIGUSR2, SIGTERM, SIGINT};
constexpr const char* kPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr int kMostAgents = 16;   // one after the other
constexpr int kStopSeconds = 10;  // for the image's program, after its stop signal, where who asks says nothing

std::optional<End> end_asked_by(int signal) {
  switch (signal) {
    case SIGUSR1:
      return End::halt;
    case SIGUSR2:
      return End::power_off;
    case SIGTERM:
      return End::reboot;
    case SIGINT:
      return End::reboot;
    default:
      return std::nullopt;
  }
}

/// The console is the terminal of a session of ours, which does not end with the command: when a session's leader ends,
/// its terminal is hung up, and what the serial driver has not sent yet is thrown away.
void control_console() {
  setsid();
  ioctl(STDIN_FILENO, TIOCSCTTY, 1);  // without a controlling terminal a shell has no job control, and ^C no target
  signal(SIGTTOU, SIG_IGN);           // we write to it whoever has the foreground
}

void begin_foreground(const sigset_t& signals) {
  setpgid(0, 0);
  tcsetpgrp(STDIN_FILENO, getpid());
  signal(SIGTTOU, SIG_DFL);
  sigprocmask(SIG_UNBLOCK, &signals, nullptr);
}

[[noreturn]] void become_command(const char* command) {
  setenv("PATH", kPath, 1);
  setenv("HOME", "/root", 1);
  if (*command != '\0') {
    execl("/bin/sh", "sh", "-c", command, nullptr);
  } else {
    execl("/bin/sh", "-sh", nullptr);  // the dash makes it a login shell, which reads /etc/profile
  }
  print_failure("cannot run", "/bin/sh", errno);
  _exit(127);
}

/// As containers are started: a directory that is not there is made.
void enter_directory(const char* path) {
  static std::array<char, 4096> front;
  for (std::size_t i = 1; path[i - 1] != '\0' && i < front.size(); ++i) {
    front[i - 1] = path[i - 1];
    if (path[i] != '/' && path[i] != '\0') continue;
    front[i] = '\0';
    mkdir(front.data(), 0755);
  }
  if (chdir(path) == 0) return;
  print_failure("cannot enter", path, errno);
  _exit(126);
}

/// The image's own program, or a command of ours in its place.
[[noreturn]] void become_program(const char* command, const RunFile& run) {
  const char* const shell[] = {"/bin/sh", "-c", command, nullptr};
  const char* const* const words = *command != '\0' ? shell : run.arguments.data();
  if (words[0] == nullptr) {
    (Message{} << "the image names no program to run, and there is no mayfly.run").print();
    _exit(127);
  }
  clearenv();
  for (std::size_t i = 0; i < run.environment_count; ++i) putenv(const_cast<char*>(run.environment[i]));
  setenv("PATH", kPath, 0);
  setenv("HOME", run.home, 0);
  setenv("TERM", "linux", 0);
  enter_directory(run.directory);
  // /dev/stdout is opened again by who logs there.
  if (fchown(STDIN_FILENO, run.uid, static_cast<gid_t>(-1)) != 0)
    print_failure("cannot give away", "the console", errno);
  if (setgroups(run.group_count, run.groups.data()) != 0 || setgid(run.gid) != 0 || setuid(run.uid) != 0) {
    print_failure("cannot become the user of", "the image", errno);
    _exit(126);
  }
  execvp(words[0], const_cast<char* const*>(words));
  print_failure("cannot run", words[0], errno);
  _exit(errno == ENOENT ? 127 : 126);
}

[[noreturn]] void become_agent(const Image& image, const sigset_t& signals) {
  setsid();
  sigprocmask(SIG_UNBLOCK, &signals, nullptr);
  signal(SIGTTOU, SIG_DFL);
  const int null = open("/dev/null", O_RDONLY);
  if (null >= 0) dup2(null, STDIN_FILENO);
  std::array<char, 32> path{"/proc/self/fd/"};
  std::to_chars(path.data() + strlen(path.data()), path.data() + path.size() - 1, image.run_file);
  fcntl(image.run_file, F_SETFD, 0);
  std::array<const char*, 5> words{"mayfly-guest-agent", "--of-init", image.run_file >= 0 ? "--run" : nullptr,
                                   path.data(), nullptr};
  constexpr std::array<const char*, 1> environment{nullptr};
  syscall(SYS_execveat, image.agent, "", words.data(), environment.data(), AT_EMPTY_PATH);
  print_failure("cannot run", "the agent", errno);
  _exit(127);
}

void announce_exit(int status) {
  if (WIFSIGNALED(status)) {
    (Message{} << "command was killed by signal " << static_cast<std::uint64_t>(WTERMSIG(status))).print();
  } else {
    (Message{} << "command exited with status " << static_cast<std::uint64_t>(WEXITSTATUS(status))).print();
  }
}

class Children {
 public:
  Children(const Program& program, const sigset_t& signals) : program_(program), signals_(signals) {}

  /// False: no process can be made.
  bool start() {
    start_agent();
    command_ = fork();
    if (command_ == 0) {
      begin_foreground(signals_);
      if (program_.image == nullptr) become_command(program_.command);
      become_program(program_.command, program_.image->run);
    }
    if (command_ < 0)
      print_failure("cannot start", program_.image == nullptr ? "/bin/sh" : "the image's program", errno);
    return command_ > 0;
  }

  /// Takes every dead child; true where the command was among them.
  bool reap() {
    bool ended = false;
    int status = 0;
    for (pid_t child; (child = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (child == agent_) {
        (Message{} << "the agent has ended").print();
        start_agent();
      }
      if (child != command_) continue;
      announce_exit(status);
      ended = true;
    }
    return ended;
  }

  /// The image's program may want to be asked by another signal than all others are, and has longer.
  void stop(int seconds) {
    if (program_.image == nullptr) return;
    kill(command_, program_.image->run.stop_signal);
    sigset_t ends{};
    sigemptyset(&ends);
    sigaddset(&ends, SIGCHLD);
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    for (const time_t last = now.tv_sec + seconds; now.tv_sec < last && !reap(); clock_gettime(CLOCK_MONOTONIC, &now)) {
      const timespec left{.tv_sec = last - now.tv_sec, .tv_nsec = 0};
      sigtimedwait(&ends, nullptr, &left);
    }
  }

 private:
  void start_agent() {
    if (program_.image == nullptr || program_.image->agent < 0 || agents_ == kMostAgents) return;
    ++agents_;
    agent_ = fork();
    if (agent_ == 0) become_agent(*program_.image, signals_);
    if (agent_ < 0) print_failure("cannot start", "the agent", errno);
  }

  const Program& program_;
  const sigset_t& signals_;
  pid_t command_ = -1;
  pid_t agent_ = -1;
  int agents_ = 0;
};

}  // namespace

sigset_t handled_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kSignals) sigaddset(&set, signal);
  return set;
}

End run(const Program& program, End after, const sigset_t& signals) {
  control_console();
  Children children{program, signals};
  if (!children.start()) return after;
  for (;;) {
    siginfo_t info{};
    const int signal = sigwaitinfo(&signals, &info);
    if (signal == SIGCHLD && children.reap()) return after;
    if (const auto end = end_asked_by(signal)) {
      children.stop(info.si_code == SI_QUEUE ? info.si_value.sival_int
                                             : kStopSeconds);  // the agent's comes with a time
      return *end;
    }
  }
}

}  // namespace mayfly::guest_init
