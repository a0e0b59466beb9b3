#include "jailer/launch.h"

#include "jailer/cgroups.h"
#include "jailer/executable.h"
#include "jailer/landlock.h"
#include "jailer/namespaces.h"
#include "jailer/privileges.h"
#include "jailer/root.h"
#include "jailer/undo.h"
#include "vmm/base/clock.h"
#include "vmm/base/files.h"
#include "vmm/base/held_signals.h"
#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <ctime>
#include <exception>
#include <initializer_list>
#include <semaphore>
#include <thread>
#include <utility>

namespace mayfly::jailer {
namespace {

/// What is looked at, and opened, before anything is changed.
struct Checked {
  Executable executable;
  OwnedFd netns;
};

Result<Checked> check(const JailArguments& jail) {
  auto executable = open_executable(jail.exec_file);
  if (!executable) return propagate(executable);
  if (auto there = check_user(jail.uid, jail.gid); !there) return propagate(there);
  Checked checked{.executable = std::move(*executable), .netns = {}};
  if (jail.netns) {
    auto netns = open_netns(*jail.netns);
    if (!netns) return propagate(netns);
    checked.netns = std::move(*netns);
  }
  return checked;
}

/// Undoes the steps of a launch that fails. After the process has dropped its privileges, a thread that still has them
/// does that; a successful execve ends it.
class Rescue {
 public:
  Rescue(Undo& undo, const OwnedFd& host_mounts)
      : undo_(undo), host_mounts_(host_mounts), thread_([this] {
          failed_.acquire();
          take_back();
        }) {}
  /// It failed: nothing else ends the life of this object.
  ~Rescue() {
    failed_.release();
    thread_.join();
  }
  Rescue(const Rescue&) = delete;
  Rescue& operator=(const Rescue&) = delete;

 private:
  void take_back() {
    return_to_mounts(host_mounts_);
    undo_.run();
  }

  Undo& undo_;
  const OwnedFd& host_mounts_;
  std::binary_semaphore failed_{0};
  std::thread thread_;
};

/// Signals that would end this process wait while it makes a jail, so that it can undo its steps. Made before any
/// thread.
constexpr std::initializer_list<int> kHeldSignals = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

Status silence_standard_streams(const OwnedFd& null) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd)
    if (::dup2(null.get(), fd) < 0) return fail_errno(ErrorKind::System, "--daemonize: cannot redirect to /dev/null");
  return {};
}

/// The monitor's console, so that it does not block: in its jail there is no /proc, by which it would do this itself.
/// Where it cannot be done the console works as well, and slower.
void unblock_console() {
  for (const auto& [fd, access] : {std::pair{STDIN_FILENO, O_RDONLY}, std::pair{STDOUT_FILENO, O_WRONLY}})
    if (const OwnedFd twin = nonblocking_twin(fd, access)) (void)::dup2(twin.get(), fd);
}

/// CPU time that was used so far is the parent's to the monitor, also where it was this very process that used it.
std::vector<std::string> monitor_arguments(const JailArguments& jail, const std::string& path, ProcessTime begin,
                                           std::uint64_t earlier_cpu_us) {
  const std::uint64_t now = time_now().cpu_us;
  const std::uint64_t parent = earlier_cpu_us > 0 ? earlier_cpu_us + now : now - begin.cpu_us;
  std::vector<std::string> arguments = {path};
  auto own = jail.monitor.begin();
  if (own != jail.monitor.end() && !own->starts_with('-')) arguments.push_back(*own++);  // a subcommand, such as run
  arguments.insert(arguments.end(),
                   {"--id", jail.id, "--start-time-us", std::to_string(begin.wall_us), "--start-time-cpu-us",
                    std::to_string(now), "--parent-cpu-time-us", std::to_string(parent)});
  arguments.insert(arguments.end(), own, jail.monitor.end());
  return arguments;
}

/// With an empty environment. Returns only an error. A signal between the look and the new program ends the process as
/// it would have ended the monitor a moment later, and likewise leaves the jail to a cleanup.
Status execute(std::vector<std::string> arguments, HeldSignals& signals) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::array<char*, 1> no_environment{};
  if (const int number = signals.waiting(); number != 0)
    return fail(ErrorKind::State, "the jail was not made: the signal {} came", number);
  signals.let_through();
  ::execve(argv.front(), argv.data(), no_environment.data());
  const int refusal = errno;
  signals.hold();
  errno = refusal;
  return fail_errno(ErrorKind::System, "cannot execute {} in the jail", arguments.front());
}

struct Launch {
  const JailArguments& jail;
  Checked checked;
  ProcessTime begin;
  std::uint64_t earlier_cpu_us = 0;  ///< What the process had used that made this one; 0: there was none.
  mode_t file_mask = 0;              ///< For the monitor.
  OwnedFd report{};                  ///< Where a child tells how it went.
};

/// What a child reports when only execve is left to do, which closes its end.
constexpr char kReady = '\0';

/// Without SIGPIPE where nobody waits for the report any more.
Status send_report(const OwnedFd& to, std::string_view report) {
  if (::send(to.get(), report.data(), report.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(report.size())) return {};
  return fail_errno(ErrorKind::System, "the mayfly-jailer that waits for the monitor is gone");
}

/// Without a look at the host's mounts, of which there may be many, where no cgroup is asked for.
Result<Cgroups> make_cgroups(const JailArguments& jail, const std::string& exec_name, Undo& undo) {
  if (jail.cgroups.settings.empty() && !jail.cgroups.parent) return Cgroups{};
  auto hierarchies = read_hierarchies();
  if (!hierarchies) return propagate(hierarchies);
  return Cgroups::make(*hierarchies, jail.cgroups, exec_name, jail.id, undo);
}

/// From the first thing that changes anything on. Returns only an error.
Status launch_here(const Launch& launch, HeldSignals& signals) {
  const JailArguments& jail = launch.jail;
  Undo undo;
  auto host_mounts = enter_own_mounts();
  if (!host_mounts) return propagate(host_mounts);
  const Rescue rescue{undo, *host_mounts};

  auto root = make_root(jail, launch.checked.executable, undo);
  if (!root) return propagate(root);
  auto cgroups = make_cgroups(jail, launch.checked.executable.name, undo);
  if (!cgroups) return propagate(cgroups);
  if (launch.checked.netns)
    if (auto joined = join_netns(launch.checked.netns); !joined) return joined;
  const OwnedFd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
  if (!jail.daemonize) unblock_console();
  if (jail.daemonize && !null) return fail_errno(ErrorKind::System, "--daemonize: cannot open /dev/null");

  if (auto entered = enter_root(root->root.get()); !entered) return entered;
  if (auto attached = cgroups->attach(undo); !attached) return attached;
  if (auto set = set_limits(jail.limits); !set) return set;
  if (jail.daemonize)
    if (auto silenced = silence_standard_streams(null); !silenced) return silenced;
  ::umask(launch.file_mask);
  if (auto dropped = drop_privileges(jail.uid, jail.gid); !dropped) return dropped;
  const std::string path = "/" + launch.checked.executable.name;
  if (auto fenced = fence_in(path); !fenced) return fenced;
  if (launch.report)
    if (auto sent = send_report(launch.report, {&kReady, 1}); !sent) return sent;
  return execute(monitor_arguments(jail, path, launch.begin, launch.earlier_cpu_us), signals);
}

[[noreturn]] void be_child(const Launch& launch, bool new_session) {
  if (new_session) ::setsid();
  HeldSignals signals{kHeldSignals};  // to the end: a report of what came is worth more than an end by it
  std::string message;
  try {
    message = launch_here(launch, signals).error().message;
  } catch (const std::exception& failure) {
    message = failure.what();
  }
  (void)send_report(launch.report, message);
  ::_exit(1);
}

std::string read_to_end(const OwnedFd& from) {
  std::string text;
  std::array<char, 1024> piece{};
  ssize_t count = 0;
  while ((count = ::read(from.get(), piece.data(), piece.size())) > 0)
    text.append(piece.data(), static_cast<std::size_t>(count));
  return text;
}

/// Returns when the monitor was executed, or was not.
Status launch_in_child(Launch launch) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0)
    return fail_errno(ErrorKind::System, "cannot make a pair of sockets");
  OwnedFd from{ends[0]};
  launch.report = OwnedFd{ends[1]};
  // The end of a session's leader sends SIGHUP to what is left of the session, and we end soon.
  const bool new_session = launch.jail.daemonize || ::getsid(0) == ::getpid();
  launch.earlier_cpu_us = time_now().cpu_us - launch.begin.cpu_us;
  // As fork does it. Not unshare and fork: whatever process we made after that would be in the namespace, too.
  const unsigned long flags = SIGCHLD | (launch.jail.new_pid_ns ? CLONE_NEWPID : 0);
  const auto child = static_cast<pid_t>(::syscall(SYS_clone, flags, nullptr, nullptr, nullptr, nullptr));
  if (child < 0)
    return fail_errno(ErrorKind::System, "cannot make the monitor's process; mayfly-jailer must be run by root");
  if (child == 0) {
    from.reset();  // or our own copy would keep a report from failing where nobody reads it
    be_child(launch, new_session);
  }
  launch.report.reset();
  std::string report = read_to_end(from);
  if (report == std::string_view{&kReady, 1}) return {};
  std::erase(report, kReady);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!report.empty()) return std::unexpected(Error{ErrorKind::System, std::move(report)});
  return fail(ErrorKind::System,
              "the process that was to be the monitor was killed (signal {}); mayfly-jailer cleanup {} "
              "removes its jail",
              WTERMSIG(status), launch.jail.id);
}

}  // namespace

ProcessTime time_now() {
  return {.wall_us = monotonic_ns() / 1000, .cpu_us = clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000};
}

Status launch(const JailArguments& jail, ProcessTime begin) {
  auto checked = check(jail);
  if (!checked) return propagate(checked);
  Launch launch{.jail = jail, .checked = std::move(*checked), .begin = begin, .file_mask = ::umask(0)};
  if (jail.daemonize || jail.new_pid_ns) return launch_in_child(std::move(launch));
  HeldSignals signals{kHeldSignals};
  return launch_here(launch, signals);
}

}  // namespace mayfly::jailer
