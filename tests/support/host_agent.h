#pragma once

#include "tests/support/child_process.h"

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// The example of a host agent (tests/host-agent) as another process, with a snapshot of a guest that it takes itself.
///
///   HostAgent agent{{.agent = host_agent_binary(), .monitor = monitor_binary(), .guest = guest_path("function")}};
///   agent.await_ready();
///   const std::string answer = agent.answer("POST", "/", "hello");   // with its head
///
/// What cannot go on throws std::runtime_error.
namespace mayfly::testing {

class HostAgent {
 public:
  struct Options {
    std::string agent;
    std::string monitor;
    std::string guest;
    std::vector<std::string> more{};  ///< Further arguments.
  };
  explicit HostAgent(const Options& options);

  /// Waits until it listens.
  void await_ready();
  /// A connection on which a request has been sent. On any thread, as those that follow.
  [[nodiscard]] OwnedFd ask(const std::string& method, const std::string& path, const std::string& body = "") const;
  /// All that comes on a connection.
  [[nodiscard]] static std::string answer_on(const OwnedFd& connection);
  [[nodiscard]] std::string answer(const std::string& method, const std::string& path,
                                   const std::string& body = "") const {
    return answer_on(ask(method, path, body));
  }

  /// The monitors that it has started and that are there at this moment.
  [[nodiscard]] std::vector<pid_t> monitor_ids() const;
  /// Those that were branched off them, also where their parent has ended.
  [[nodiscard]] std::vector<pid_t> branch_ids() const;
  /// Both, as pidfds.
  [[nodiscard]] std::vector<OwnedFd> monitors() const;
  /// The first process of its branches' PID namespace.
  [[nodiscard]] std::optional<pid_t> first_process() const;
  /// The one that it has made for its files.
  [[nodiscard]] std::string work_directory() const;
  /// Whether there is anything in the directory where its files go.
  [[nodiscard]] bool has_files() const;
  void signal(int number) const { process_->signal(number); }
  /// The exit code.
  int wait() { return process_->wait(); }

 private:
  /// Whether it is no monitor but a copy of the agent, which is the first process of a PID namespace.
  [[nodiscard]] bool is_agent(pid_t process) const;
  [[nodiscard]] std::string directory() const { return scratch_.file("agent"); }

  ScratchDirectory scratch_;
  Pipe out_;
  std::optional<ChildProcess> process_;
  std::uint16_t port_ = 0;
};

}  // namespace mayfly::testing
