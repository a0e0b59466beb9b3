#pragma once

#include "tests/support/child_process.h"

#include <optional>
#include <string>

/// Requests that may wait for long, and ends that may never come, each with a deadline of its own.
namespace mayfly::testing {

/// A request on a connection of its own, whose answer nobody waits for unless asked.
///
///   PendingRequest snapshot{monitor.socket_path(), "PUT", "/snapshot/create", body};
///   ...                                                  // meanwhile
///   const auto answer = snapshot.answer_within(10);
class PendingRequest {
 public:
  PendingRequest(const std::string& socket, const std::string& method, const std::string& path,
                 const std::string& body = "");

  /// The answer; nothing where it is not there within so many seconds, or the connection has ended before it.
  [[nodiscard]] std::optional<HttpAnswer> answer_within(double seconds);
  [[nodiscard]] bool is_answered() { return answer_within(0).has_value(); }
  void hang_up() { connection_.reset(); }

 private:
  [[nodiscard]] std::optional<HttpAnswer> whole_answer() const;
  OwnedFd connection_;
  std::string text_;
};

/// Whether the process, a child, has ended within so many seconds, with all of its threads. ChildProcess::wait() then
/// has its exit code.
[[nodiscard]] bool has_ended_within(const ChildProcess& process, double seconds);

}  // namespace mayfly::testing
