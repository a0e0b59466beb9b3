#pragma once

#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <array>
#include <string>
#include <vector>

/// A monitor as another process, and its API: for integration tests and benchmarks.
///
///   ScratchDirectory scratch;
///   SocketWaiter waiter{scratch.file("api")};
///   ChildProcess monitor{{path, "--api-sock", scratch.file("api")}, {}};
///   const OwnedFd connection = waiter.connect();
///   HttpAnswer answer = exchange(connection.get(), "GET", "/", "");
///
/// What cannot go on throws std::runtime_error: a test fails, a benchmark ends. Every wait has a deadline.
namespace mayfly::testing {

/// For anything that a healthy host does in milliseconds; generous, since a busy one with sanitizers may take a minute.
inline constexpr double kDeadlineUs = 180e6;

/// CLOCK_MONOTONIC in microseconds.
[[nodiscard]] double now_us();

[[noreturn]] void give_up(const std::string& why);

/// A child process; killed and waited for when it goes out of scope.
class ChildProcess {
 public:
  struct Streams {
    int in = -1;  ///< -1: /dev/null
    int out = -1;
    int err = -1;
  };
  ChildProcess(const std::vector<std::string>& arguments, const Streams& streams);
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  void signal(int number) const;
  /// Waits for the end; the exit code, or 256 and the number of the signal that ended it.
  int wait();
  /// Whether it has ended, and not well. Is asked also before wait().
  [[nodiscard]] bool has_failed() const;
  /// A line of /proc/PID/status, in KiB: "VmRSS", "RssAnon".
  [[nodiscard]] long status_kib(const std::string& key) const;
  /// CPU time that the process has used, in ticks of 10 ms.
  [[nodiscard]] long cpu_time_ticks() const;
  /// CPU time that the threads which it has now have used, and the first of them alone; exact, in microseconds.
  [[nodiscard]] double cpu_time_us() const;
  [[nodiscard]] double main_thread_cpu_us() const;
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  /// Becomes readable when it ends.
  [[nodiscard]] int pidfd() const noexcept { return pidfd_.get(); }

 private:
  pid_t pid_ = -1;
  OwnedFd pidfd_;
};

struct Pipe {
  Pipe();
  OwnedFd read, write;
};

/// Has a pipe hold a page of 4 KiB, instead of 64: it fills sooner.
void make_pipe_small(int fd);

/// Reads from `fd` until `text` holds `wanted`, or to the end where `wanted` is empty. Throws, showing what came, at
/// the end of the stream or the deadline.
void read_until(int fd, std::string& text, const std::string& wanted);

/// Waits until something listens on a Unix socket, without polling before its file is there. Make it before the
/// process that will listen.
class SocketWaiter {
 public:
  explicit SocketWaiter(std::string path);
  [[nodiscard]] OwnedFd connect() const;
  /// The same, of a socket that `maker` makes, or a child of it which outlives it. Throws where it fails, with what it
  /// has said on `err`, a pipe.
  [[nodiscard]] OwnedFd connect(const ChildProcess& maker, int err) const;

 private:
  [[nodiscard]] OwnedFd connect_to(const ChildProcess* maker, int err) const;

  std::string path_;
  OwnedFd watch_;
};

/// A connection to a listening Unix socket; none where nobody listens.
[[nodiscard]] OwnedFd connect_unix(const std::string& path);

struct HttpAnswer {
  int status = 0;
  std::string body;
};

/// Sends one request on a connection and reads the whole answer.
HttpAnswer exchange(int connection, const std::string& method, const std::string& path, const std::string& body);
/// The same; throws where the status is not 2xx.
void must_exchange(int connection, const std::string& method, const std::string& path, const std::string& body);

/// A fresh directory, removed with its files when it goes out of scope; where temporary files go, unless told.
class ScratchDirectory {
 public:
  explicit ScratchDirectory(const std::string& parent = "");
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory();
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace mayfly::testing
