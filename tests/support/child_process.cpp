#include "tests/support/child_process.h"

#include "vmm/base/process_fd.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <stdexcept>

extern char** environ;

namespace mayfly::testing {
namespace {

/// Waits for an event of one of `those`; throws at the deadline.
void await(std::span<pollfd> those, double deadline, const std::string& what) {
  for (;;) {
    const double left_ms = (deadline - now_us()) / 1e3;
    if (left_ms <= 0) give_up("no " + what + " within the deadline");
    const int count = ::poll(those.data(), those.size(), static_cast<int>(left_ms) + 1);
    if (count > 0) return;
    if (count < 0 && errno != EINTR) give_up("poll: " + std::string{std::strerror(errno)});
  }
}

void await(int fd, short events, double deadline, const std::string& what) {
  pollfd ready{.fd = fd, .events = events, .revents = 0};
  await({&ready, 1}, deadline, what);
}

/// Takes all that inotify tells: of what is left it would tell again at once, and the wait take a CPU from what it
/// waits for.
void take_new_files(const OwnedFd& watch) {
  std::array<char, 4096> events{};
  if (::read(watch.get(), events.data(), events.size()) < 0) give_up("inotify: " + std::string{std::strerror(errno)});
}

std::string rest_of(int err) {
  std::string said;
  read_until(err, said, "");
  return "it said:\n" + said;
}

/// The first number of a schedstat is the time on a CPU, in nanoseconds. Nothing of a thread that is gone.
std::optional<double> run_time_us(const std::filesystem::path& schedstat) {
  std::ifstream file{schedstat};
  double ns = 0;
  if (!(file >> ns)) return std::nullopt;
  return ns / 1e3;
}

}  // namespace

double now_us() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

void give_up(const std::string& why) { throw std::runtime_error(why); }

ChildProcess::ChildProcess(const std::vector<std::string>& arguments, const Streams& streams) {
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  const std::array wanted = {streams.in, streams.out, streams.err};
  for (int fd = 0; fd < 3; ++fd) {
    const int source = wanted.at(static_cast<std::size_t>(fd));
    if (source < 0)
      ::posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
    else
      ::posix_spawn_file_actions_adddup2(&actions, source, fd);
  }
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const int error_number = ::posix_spawnp(&pid_, argv.front(), &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error_number != 0) {
    pid_ = -1;
    give_up("cannot start " + arguments.front() + ": " + std::strerror(error_number));
  }
  pidfd_ = open_process(pid_);
}

ChildProcess::~ChildProcess() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void ChildProcess::signal(int number) const { ::kill(pid_, number); }

int ChildProcess::wait() {
  await(pidfd_.get(), POLLIN, now_us() + kDeadlineUs, "end of process " + std::to_string(pid_));
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

bool ChildProcess::has_failed() const {
  siginfo_t end{};
  if (::waitid(P_PID, static_cast<id_t>(pid_), &end, WEXITED | WNOHANG | WNOWAIT) != 0 || end.si_pid == 0) return false;
  return end.si_code != CLD_EXITED || end.si_status != 0;
}

long ChildProcess::status_kib(const std::string& key) const {
  std::ifstream status{"/proc/" + std::to_string(pid_) + "/status"};
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":")) return std::strtol(line.c_str() + key.size() + 1, nullptr, 10);
  give_up("no " + key + " in the status of process " + std::to_string(pid_));
}

long ChildProcess::cpu_time_ticks() const {
  std::ifstream stat{"/proc/" + std::to_string(pid_) + "/stat"};
  std::string text;
  std::getline(stat, text);
  std::istringstream fields{text.substr(text.rfind(')') + 2)};  // after the name: field 3 of proc(5)
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  long user = 0;
  long system = 0;
  fields >> user >> system;
  return user + system;
}

double ChildProcess::cpu_time_us() const {
  double sum = 0;
  for (const auto& thread : std::filesystem::directory_iterator{"/proc/" + std::to_string(pid_) + "/task"})
    sum += run_time_us(thread.path() / "schedstat").value_or(0);  // workers of the ring end when they are idle
  return sum;
}

double ChildProcess::main_thread_cpu_us() const {
  const std::string path = "/proc/" + std::to_string(pid_) + "/task/" + std::to_string(pid_) + "/schedstat";
  const auto time = run_time_us(path);
  if (!time) give_up("cannot read " + path);
  return *time;
}

Pipe::Pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) give_up("cannot make a pipe");
  read = OwnedFd{ends[0]};
  write = OwnedFd{ends[1]};
}

void make_pipe_small(int fd) {
  if (::fcntl(fd, F_SETPIPE_SZ, 4096) < 0) give_up("cannot make a pipe small");
}

void read_until(int fd, std::string& text, const std::string& wanted) {
  const double deadline = now_us() + kDeadlineUs;
  std::array<char, 4096> piece{};
  while (wanted.empty() || text.find(wanted) == std::string::npos) {
    try {
      await(fd, POLLIN, deadline, "\"" + wanted + "\"");
    } catch (const std::runtime_error& late) {
      give_up(std::string{late.what()} + "; so far:\n" + text);
    }
    const ssize_t count = ::read(fd, piece.data(), piece.size());
    if (count == 0 && wanted.empty()) return;
    if (count <= 0) give_up("the stream ended before \"" + wanted + "\"; it said:\n" + text);
    text.append(piece.data(), static_cast<std::size_t>(count));
  }
}

SocketWaiter::SocketWaiter(std::string path) : path_(std::move(path)), watch_(::inotify_init1(IN_CLOEXEC)) {
  const std::string directory = std::filesystem::path{path_}.parent_path();
  if (!watch_ || ::inotify_add_watch(watch_.get(), directory.c_str(), IN_CREATE) < 0)
    give_up("cannot watch " + directory);
}

OwnedFd SocketWaiter::connect() const { return connect_to(nullptr, -1); }

OwnedFd SocketWaiter::connect(const ChildProcess& maker, int err) const { return connect_to(&maker, err); }

OwnedFd SocketWaiter::connect_to(const ChildProcess* maker, int err) const {
  const double deadline = now_us() + kDeadlineUs;
  std::array those = {pollfd{.fd = watch_.get(), .events = POLLIN, .revents = 0},
                      pollfd{.fd = maker != nullptr ? maker->pidfd() : -1, .events = POLLIN, .revents = 0}};
  for (;;) {
    OwnedFd connection = connect_unix(path_);
    if (connection) return connection;
    const bool is_bound = errno != ENOENT;
    if (maker != nullptr && maker->has_failed())
      give_up("nothing will listen on " + path_ + ": its process failed; " + rest_of(err));
    if (is_bound) {
      ::sched_yield();  // it listens in a moment, for which its maker may need this CPU
    } else {
      await(those, deadline, "socket " + path_);
      if (those[0].revents != 0) take_new_files(watch_);
      if (those[1].revents != 0) those[1].fd = -1;  // it has ended: poll(2) passes over it
    }
    if (now_us() > deadline) give_up("nothing listens on " + path_);
  }
}

OwnedFd connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  OwnedFd connection{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (::connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return connection;
  const int error_number = errno;
  connection.reset();
  errno = error_number;
  return {};
}

HttpAnswer exchange(int connection, const std::string& method, const std::string& path, const std::string& body) {
  const std::string text = method + " " + path +
                           " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(body.size()) +
                           "\r\n\r\n" + body;
  if (::send(connection, text.data(), text.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(text.size()))
    give_up("cannot send " + method + " " + path);
  std::string answer;
  read_until(connection, answer, "\r\n\r\n");
  const std::size_t head = answer.find("\r\n\r\n");
  const std::string_view key = "Content-Length: ";
  const std::size_t length = answer.find(key);
  const std::size_t wanted = length < head ? std::strtoul(answer.c_str() + length + key.size(), nullptr, 10) : 0;
  std::array<char, 4096> piece{};
  while (answer.size() < head + 4 + wanted) {
    const ssize_t count = ::recv(connection, piece.data(), piece.size(), 0);
    if (count <= 0) give_up("the answer to " + method + " " + path + " was cut short");
    answer.append(piece.data(), static_cast<std::size_t>(count));
  }
  return {static_cast<int>(std::strtol(answer.c_str() + std::strlen("HTTP/1.1 "), nullptr, 10)),
          answer.substr(head + 4)};
}

void must_exchange(int connection, const std::string& method, const std::string& path, const std::string& body) {
  const HttpAnswer answer = exchange(connection, method, path, body);
  if (answer.status / 100 != 2)
    give_up(method + " " + path + " was refused with " + std::to_string(answer.status) + ": " + answer.body);
}

ScratchDirectory::ScratchDirectory(const std::string& parent) {
  std::string pattern = (parent.empty() ? std::filesystem::temp_directory_path().string() : parent) + "/mayfly-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) give_up("cannot make a directory like " + pattern);
  path_ = pattern;
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace mayfly::testing
