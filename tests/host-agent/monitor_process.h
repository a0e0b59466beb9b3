#pragma once

#include "api/client/deadline.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <string>
#include <string_view>

/// A `mayfly` process of ours and its API.
///
///   auto monitor = MonitorProcess::start({.binary = "/usr/bin/mayfly", .directory = "/run/agent", .id = "clone-1"});
///   if (auto put = monitor->request("PUT", "/mmds", body); !put) return propagate(put);
///
/// It ends with the object, and with the thread that started it (so also when we are killed).
namespace mayfly::host_agent {

struct MonitorOptions {
  std::string binary;
  std::string directory;  ///< For its socket.
  std::string id;
  int console = -1;  ///< The guest's output; -1: nowhere.
};

class MonitorProcess {
 public:
  /// Returns when it has given its first answer: from then on it makes ready what a load will need. In the network
  /// namespace of the calling thread.
  [[nodiscard]] static Result<MonitorProcess> start(const MonitorOptions& options);

  MonitorProcess(MonitorProcess&&) noexcept = default;
  MonitorProcess& operator=(MonitorProcess&&) = delete;
  MonitorProcess(const MonitorProcess&) = delete;
  MonitorProcess& operator=(const MonitorProcess&) = delete;
  /// Kills it, waits for it, and removes its socket.
  ~MonitorProcess();

  /// A request to its API, answered with 2xx by then.
  [[nodiscard]] Status request(std::string_view method, std::string_view path, std::string_view body,
                               Deadline deadline) const;
  /// The same, where nobody is in a hurry.
  [[nodiscard]] Status request(std::string_view method, std::string_view path, std::string_view body) const;

  /// Readable once it has ended.
  [[nodiscard]] int pidfd() const noexcept { return pidfd_.get(); }
  [[nodiscard]] bool has_ended() const;
  void kill() const;
  /// Has it end by itself, upon which it gives back at once what it holds (see CloneNetwork::await_unused()), or kills
  /// it where that takes long.
  void end() const;

 private:
  MonitorProcess(pid_t pid, OwnedFd pidfd, std::string socket)
      : pid_(pid), pidfd_(std::move(pidfd)), socket_(std::move(socket)) {}
  [[nodiscard]] Status await_first_answer() const;
  void signal(int number) const;

  pid_t pid_;
  OwnedFd pidfd_;
  std::string socket_;
};

}  // namespace mayfly::host_agent
