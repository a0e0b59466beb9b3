#pragma once

#include "perf/series.h"
#include "tests/support/child_process.h"
#include "vmm/base/owned_fd.h"

#include <string>
#include <vector>

namespace mayfly::perf {

std::string in_quotes(const std::string& text);

/// A monitor, ready for commands, with the console of its bare-metal guest at hand. What goes wrong throws
/// std::runtime_error.
class ConsoleMachine {
 public:
  /// Returns when it has answered once.
  ConsoleMachine(const std::string& monitor, const std::string& socket, const std::vector<std::string>& more = {});
  /// A request that succeeds.
  void send(const std::string& method, const std::string& path, const std::string& body) const;
  /// The body of an answer.
  [[nodiscard]] std::string get(const std::string& path) const;
  void type(char key) const;
  /// Waits until the console shows `text`, after what was waited for last.
  void await(const std::string& text);
  /// What follows that up to the line's end.
  [[nodiscard]] std::string rest_of_line();
  [[nodiscard]] pid_t pid() const noexcept { return process_.pid(); }

 private:
  testing::Pipe keys_;
  testing::Pipe console_;
  testing::SocketWaiter waiter_;
  testing::ChildProcess process_;
  OwnedFd connection_;
  std::string rest_;
};

}  // namespace mayfly::perf
