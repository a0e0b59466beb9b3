#pragma once

#include "tests/integration/kvm_required.h"
#include "tests/support/host_agent.h"
#include "tests/support/monitor.h"
#include "tests/support/monitor_jail.h"
#include "tests/support/tap_network.h"

#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

/// The example of a host agent (tests/host-agent) with bare-metal guests, for its tests.
namespace mayfly::testing {

/// A host agent with a snapshot of a guest of the build.
class Agent : public HostAgent {
 public:
  static constexpr int kDeadlineMs = 60'000;

  explicit Agent(const std::vector<std::string>& more = {}, const std::string& guest = "function")
      : HostAgent({.agent = host_agent_binary(),
                   .monitor = wrapped_monitor_binary(),
                   .guest = guest_path(guest),
                   .more = more}) {}

  [[nodiscard]] std::string stats() const { return answer("GET", "/stats"); }

  /// Asks for statistics until they hold `wanted`.
  void await_stats(const std::string& wanted) const {
    const double deadline = now_us() + kDeadlineMs * 1e3;
    for (std::string said; said.find(wanted) == std::string::npos; ::sched_yield()) {
      if (now_us() > deadline) give_up("the statistics do not come to hold " + wanted + ": " + said);
      said = stats();
    }
  }

  static void expect_ended(const std::vector<OwnedFd>& processes) {
    for (const OwnedFd& process : processes) {
      pollfd end{.fd = process.get(), .events = POLLIN, .revents = 0};
      EXPECT_EQ(::poll(&end, 1, kDeadlineMs), 1);
    }
  }

  /// Where the environment asks for jails, they are in some.
  static void expect_in_jails(const std::vector<pid_t>& processes) {
    for (const pid_t process : processes)
      EXPECT_EQ(std::filesystem::equivalent("/proc/" + std::to_string(process) + "/root/", "/"),
                !MonitorJail::wanted());
  }

  /// By the guest `function`. Every clone goes on after the answer that said that the function is ready: it is at its
  /// second request, where the source has answered no others before.
  static bool is_answered(const std::string& answer, const std::string& body, unsigned request = 2) {
    return answer.starts_with("HTTP/1.1 200 ") &&
           answer.ends_with("\r\n\r\nrequest " + std::to_string(request) + "\n" + body);
  }
};

/// In a network of the test's own, whose ports are all free.
class HostAgentTest : public KvmTest {
 protected:
  void SetUp() override {
    KvmTest::SetUp();
    if (IsSkipped()) return;
    if (const auto why = enter_fresh_network()) GTEST_SKIP() << *why;
    ifreq loopback{};
    std::ranges::copy(std::string_view{"lo"}, loopback.ifr_name);
    loopback.ifr_flags = IFF_UP;
    const OwnedFd socket{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    ASSERT_EQ(::ioctl(socket.get(), SIOCSIFFLAGS, &loopback), 0);
  }
};

}  // namespace mayfly::testing
