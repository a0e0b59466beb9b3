#include "tests/host-agent/monitor_process.h"

#include "api/client/api_client.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

namespace mayfly::host_agent {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

/// For the start, and for requests for which nobody waits: far more than either takes on a busy host.
constexpr auto kStartPatience = 60s;

/// The child shares our memory and has our thread wait until it executes, so it makes system calls and nothing else.
/// `null`, `console`: its standard input and output; errors go where ours go.
pid_t spawn(char* const* argv, pid_t parent, int null, int console) {
  const pid_t child = ::vfork();  // NOLINT(clang-analyzer-security.insecureAPI.vfork): a page table less to copy
  if (child != 0) return child;
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || ::getppid() != parent) ::_exit(127);
  if (::dup2(null, STDIN_FILENO) < 0 || ::dup2(console, STDOUT_FILENO) < 0) ::_exit(127);
  ::execv(argv[0], argv);
  ::_exit(127);
}

}  // namespace

Result<MonitorProcess> MonitorProcess::start(const MonitorOptions& options) {
  const std::string socket = options.directory + "/" + options.id + ".socket";
  std::vector<std::string> words = {options.binary, "--api-sock", socket, "--id", options.id, "--level", "Error"};
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const OwnedFd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
  const pid_t pid = spawn(argv.data(), ::getpid(), null.get(), options.console >= 0 ? options.console : null.get());
  if (pid < 0) return fail_errno(ErrorKind::System, "cannot start {}", options.binary);
  OwnedFd pidfd{static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))};
  if (!pidfd) {
    auto failure = fail_errno(ErrorKind::System, "cannot watch process {}", pid);
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return failure;
  }
  MonitorProcess monitor{pid, std::move(pidfd), socket};
  if (auto ready = monitor.await_first_answer(); !ready) return propagate(ready, options.binary);
  return monitor;
}

MonitorProcess::~MonitorProcess() {
  if (!pidfd_) return;  // moved from
  kill();
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  ::unlink(socket_.c_str());
}

/// No request waits for this, so it asks a thousand times a second instead of watching for the socket's file.
Status MonitorProcess::await_first_answer() const {
  const Deadline deadline = Deadline::clock::now() + kStartPatience;
  for (;;) {
    const ApiClient client{socket_, {.patience = time_left(deadline), .process = pid_}};
    const auto answer = client.send("GET", "/");
    if (answer) return {};
    if (is_ready_by(Deadline::clock::now() + 1ms, pidfd_.get(), POLLIN))
      return fail(ErrorKind::System, "it ended before its API answered");
    if (answer.error().kind != ErrorKind::NotFound || time_left(deadline) == 0ms)
      return std::unexpected(answer.error());
  }
}

Status MonitorProcess::request(std::string_view method, std::string_view path, std::string_view body,
                               Deadline deadline) const {
  const ApiClient client{socket_, {.patience = time_left(deadline), .process = pid_}};
  const auto answer = client.send(method, path, body);
  if (!answer) return std::unexpected(answer.error());
  return {};
}

Status MonitorProcess::request(std::string_view method, std::string_view path, std::string_view body) const {
  return request(method, path, body, Deadline::clock::now() + kStartPatience);
}

bool MonitorProcess::has_ended() const {
  pollfd end{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
  return ::poll(&end, 1, 0) > 0;
}

void MonitorProcess::signal(int number) const {
  (void)::syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0);
}

void MonitorProcess::kill() const { signal(SIGKILL); }

void MonitorProcess::end() const {
  signal(SIGTERM);
  if (!is_ready_by(Deadline::clock::now() + 1s, pidfd_.get(), POLLIN)) kill();
}

}  // namespace mayfly::host_agent
