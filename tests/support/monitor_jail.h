#pragma once

#include <string>
#include <vector>

/// A jail for a monitor under test. `MAYFLY_TEST_JAILS=1` in the environment has every `Monitor` of the integration
/// tests in one, made by mayfly-jailer: with a root directory of its own, no capabilities, Landlock. In it are
/// the tests' own files, at the paths that tests know them by; so it is root's, whose files they are.
namespace mayfly::testing {

class MonitorJail {
 public:
  /// Whether the environment asks for jails.
  [[nodiscard]] static bool wanted();

  /// `arguments`: the monitor's; an --id among them is the jail's.
  explicit MonitorJail(std::vector<std::string> arguments);
  MonitorJail(const MonitorJail&) = delete;
  MonitorJail& operator=(const MonitorJail&) = delete;
  /// The monitor has ended.
  ~MonitorJail();

  /// The jailer's, and then the monitor's.
  [[nodiscard]] const std::vector<std::string>& command() const noexcept { return command_; }

 private:
  std::string base_;
  std::vector<std::string> command_;
};

/// What is mounted from now on, this process and its children alone see. Throws where this is not root's.
void enter_own_mounts();

/// In the place of monitor_binary() for a program that starts monitors and knows nothing of jails: each is in one of
/// its own, as above, where the environment asks for jails. The child that is started is the monitor. The first one
/// must be there before others are started beside it.
[[nodiscard]] std::string wrapped_monitor_binary();

}  // namespace mayfly::testing
