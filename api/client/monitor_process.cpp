#include "api/client/monitor_process.h"

#include "api/client/api_client.h"
#include "vmm/base/process_fd.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <vector>

namespace mayfly {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

/// For the start, and for requests for which nobody waits: far more than either takes on a busy host.
constexpr auto kStartPatience = 60s;

// NOLINTBEGIN(*-unix.Vfork,*insecureAPI.vfork,bugprone-unsafe-functions,concurrency-mt-unsafe): only system calls
/// The child shares our memory and has our thread wait until it executes, so it makes system calls and nothing else.
pid_t spawn(char* const* argv, pid_t parent, std::array<int, 3> streams, bool stays, bool ends_with_us) {
  const pid_t child = ::vfork();  // a page table less to copy
  if (child != 0) return child;
  if (ends_with_us) {
    if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) ::_exit(127);
    // In a PID namespace of its own it sees no parent (0), and ends with the namespace (a host agent's, say).
    if (const pid_t seen = ::getppid(); seen != parent && seen != 0) ::_exit(127);
  }
  if (stays) {
    ::setsid();
    // Signals that we hold back until it is up are not for it to hold back.
    sigset_t none{};
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
  }
  for (int stream = 0; stream < 3; ++stream)
    if (streams[static_cast<std::size_t>(stream)] >= 0 && ::dup2(streams[static_cast<std::size_t>(stream)], stream) < 0)
      ::_exit(127);
  ::execv(argv[0], argv);
  ::_exit(127);
}
// NOLINTEND(*-unix.Vfork,*insecureAPI.vfork,bugprone-unsafe-functions,concurrency-mt-unsafe)

/// A pidfd's, as we see it; 0 where the process has ended.
pid_t pid_of(const OwnedFd& pidfd) {
  std::ifstream info{fmt::format("/proc/self/fdinfo/{}", pidfd.get())};
  for (std::string word; info >> word;)
    if (pid_t pid = 0; word == "Pid:" && info >> pid) return pid > 0 ? pid : 0;
  return 0;
}

}  // namespace

// --- The API ---------------------------------------------------------------------------------------------------------

Result<std::string> MonitorApi::ask(std::string_view method, std::string_view path, std::string_view body,
                                    Deadline deadline) const {
  return ApiClient{socket_, {.patience = time_left(deadline), .process = process_, .cancel = cancel_}}.send(method,
                                                                                                            path, body);
}

Result<std::string> MonitorApi::ask(std::string_view method, std::string_view path, std::string_view body) const {
  return ask(method, path, body, Deadline::clock::now() + kStartPatience);
}

Status MonitorApi::request(std::string_view method, std::string_view path, std::string_view body,
                           Deadline deadline) const {
  auto answer = ask(method, path, body, deadline);
  if (!answer) return propagate(answer);
  return {};
}

Status MonitorApi::request(std::string_view method, std::string_view path, std::string_view body) const {
  return request(method, path, body, Deadline::clock::now() + kStartPatience);
}

// --- The process -----------------------------------------------------------------------------------------------------

std::string socket_path(const std::string& directory, const std::string& id) {
  return directory + "/" + id + ".socket";
}

Result<MonitorProcess> MonitorProcess::start(const MonitorOptions& options) {
  const std::string socket = socket_path(options.directory, options.id);
  MonitorCommand command{.words = {options.binary, "--api-sock", socket, "--id", options.id, "--level", "Error"},
                         .socket = socket,
                         .console = options.console,
                         .cancel = options.cancel};
  command.words.insert(command.words.end(), options.more.begin(), options.more.end());
  return start(std::move(command));
}

Result<MonitorProcess> MonitorProcess::start(MonitorCommand command) {
  std::vector<char*> argv;
  argv.reserve(command.words.size() + 1);
  for (std::string& word : command.words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const OwnedFd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
  const pid_t pid =
      spawn(argv.data(), ::getpid(), {null.get(), command.console >= 0 ? command.console : null.get(), command.errors},
            command.stays, !command.stays || command.ends_with_us_as_root);
  const std::string& program = command.words.front();
  if (pid < 0) return fail_errno(ErrorKind::System, "cannot start {}", program);
  OwnedFd pidfd = open_process(pid);
  if (!pidfd) {
    auto failure = fail_errno(ErrorKind::System, "cannot watch process {}", pid);
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return failure;
  }
  MonitorProcess monitor{std::move(pidfd), MonitorApi{command.socket, pid, command.cancel}};
  const Deadline deadline = command.deadline.value_or(Deadline::clock::now() + kStartPatience);
  if (auto ready = monitor.await_first_answer(deadline); !ready) return propagate(ready, program);
  return monitor;
}

Result<MonitorProcess> MonitorProcess::adopt(const std::string& socket) {
  auto process = ApiClient{socket, {.patience = kStartPatience}}.process();
  if (!process) return propagate(process);
  const pid_t pid = pid_of(*process);
  if (pid == 0) return fail(ErrorKind::NotFound, "the process that had {} has ended", socket);
  return MonitorProcess{std::move(*process), MonitorApi{socket, pid}};
}

MonitorProcess::~MonitorProcess() {
  if (!pidfd_) return;  // moved from
  kill();
  (void)is_ready_by(Deadline::max(), pidfd_.get(), POLLIN);
  // One that was branched off is its parent's to wait for.
  siginfo_t end{};
  while (::waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &end, WEXITED) < 0 && errno == EINTR) {
  }
  ::unlink(api_.socket().c_str());
}

/// No request waits for this, so it asks a thousand times a second instead of watching for the socket's file.
Status MonitorProcess::await_first_answer(Deadline deadline) const {
  for (;;) {
    const auto answer = api_.ask("GET", "/", "", deadline);
    if (answer) return {};
    if (is_ready_by(Deadline::clock::now() + 1ms, pidfd_.get(), POLLIN))
      return fail(ErrorKind::System, "it ended before its API answered");
    if (answer.error().kind != ErrorKind::NotFound || time_left(deadline) == 0ms)
      return std::unexpected(answer.error());
  }
}

pid_t MonitorProcess::let_go() && {
  const pid_t pid = pid_of(pidfd_);
  pidfd_.reset();
  return pid;
}

bool MonitorProcess::has_ended() const {
  pollfd end{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
  return ::poll(&end, 1, 0) > 0;
}

void MonitorProcess::signal(int number) const { (void)signal_process(pidfd_, number); }

void MonitorProcess::kill() const { signal(SIGKILL); }
void MonitorProcess::ask_to_end() const { signal(SIGTERM); }

void MonitorProcess::end() const {
  ask_to_end();
  if (!is_ready_by(Deadline::clock::now() + kEndPatience, pidfd_.get(), POLLIN)) kill();
}

}  // namespace mayfly
