#pragma once

#include "tests/support/child_process.h"
#include "tests/support/monitor_jail.h"

#include <optional>
#include <string>
#include <vector>

/// A `mayfly` process under test, driven by its API, with its console and log at hand.
///
///   Monitor monitor;
///   monitor.put("/boot-source", R"({"kernel_image_path": "..."})");
///   monitor.start();
///   monitor.console_until("GUEST PASS");
///   EXPECT_EQ(monitor.wait(), 0);
namespace mayfly::testing {

/// Where the build put the monitor, the jailer, the compiler of filters, the page server (page_server.cpp), the example
/// of a host agent (tests/host-agent) and the bare-metal guests.
[[nodiscard]] std::string monitor_binary();
[[nodiscard]] std::string jailer_binary();
[[nodiscard]] std::string seccompile_binary();
[[nodiscard]] std::string page_server_binary();
[[nodiscard]] std::string host_agent_binary();
[[nodiscard]] std::string guest_path(const std::string& name);

/// Arguments of the guest serial_flood. It writes more than a small pipe (make_pipe_small()) and the monitor's buffer of
/// 64 KiB hold. Not much more: each byte is an exit, which is dear where the host is itself a guest.
inline constexpr const char* kMoreThanTheConsoleKeeps = "bytes=80000";

class Monitor {
 public:
  /// Starts the monitor with an API and `arguments` more, and connects to it. `launcher`: a command that ends by
  /// executing the one that follows it, such as {"setpriv", "--no-new-privs"}; with one, there is no jail.
  explicit Monitor(const std::vector<std::string>& arguments = {}, const std::vector<std::string>& launcher = {});

  HttpAnswer send(const std::string& method, const std::string& path, const std::string& body = "") {
    return exchange(connection_.get(), method, path, body);
  }
  HttpAnswer put(const std::string& path, const std::string& body) { return send("PUT", path, body); }
  HttpAnswer patch(const std::string& path, const std::string& body) { return send("PATCH", path, body); }
  HttpAnswer get(const std::string& path) { return send("GET", path); }

  /// PUT /boot-source with a guest of the build, then InstanceStart; throws where one is refused.
  void boot(const std::string& guest, const std::string& boot_args = "console=ttyS0");

  /// Everything on the console so far, once it holds `wanted`.
  const std::string& console_until(const std::string& wanted);
  /// Everything on the console, to its end; the process must be on its way out.
  const std::string& console_to_end() { return console_until(""); }
  /// Waits for more on the console; its size so far.
  std::size_t console_more();
  const std::string& log_until(const std::string& wanted);
  void type(const std::string& keys);
  void signal(int number) const { process_->signal(number); }
  /// The exit code.
  int wait();
  /// CPU time that the process has used, in ticks of 10 ms.
  [[nodiscard]] long cpu_time_ticks() const { return process_->cpu_time_ticks(); }

  [[nodiscard]] const std::string& socket_path() const noexcept { return socket_; }
  [[nodiscard]] std::string file(const std::string& name) const { return scratch_.file(name); }
  [[nodiscard]] ChildProcess& process() noexcept { return *process_; }
  /// The console's pipe holds a page: unread output stays in the monitor sooner.
  void keep_console_small() { make_pipe_small(out_.read.get()); }
  /// Closes the reading end of the console.
  void stop_reading_console() { out_.read.reset(); }

 private:
  ScratchDirectory scratch_;
  std::string socket_ = scratch_.file("api.socket");
  Pipe in_, out_, err_;
  std::optional<MonitorJail> jail_;
  std::optional<ChildProcess> process_;
  OwnedFd connection_;
  std::string console_;
  std::string log_;
};

}  // namespace mayfly::testing
