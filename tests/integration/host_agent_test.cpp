// The example of a host agent (tests/host-agent) with the bare-metal guest `function`.

#include "tests/support/host_agent.h"

#include "tests/integration/kvm_required.h"
#include "tests/support/monitor.h"
#include "tests/support/monitor_jail.h"
#include "tests/support/tap_network.h"

#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <thread>
#include <vector>

namespace mayfly::testing {
namespace {

constexpr int kDeadlineMs = 60'000;

/// A host agent with a snapshot of a guest of the build.
class Agent : public HostAgent {
 public:
  explicit Agent(const std::vector<std::string>& more = {}, const std::string& guest = "function")
      : HostAgent({.agent = host_agent_binary(),
                   .monitor = wrapped_monitor_binary(),
                   .guest = guest_path(guest),
                   .more = more}) {}

  /// Asks for statistics until they hold `wanted`.
  void await_stats(const std::string& wanted) const {
    const double deadline = now_us() + kDeadlineMs * 1e3;
    for (std::string stats; stats.find(wanted) == std::string::npos; ::sched_yield()) {
      if (now_us() > deadline) give_up("the statistics do not come to hold " + wanted + ": " + stats);
      stats = answer("GET", "/stats");
    }
  }
};

void expect_ended(const std::vector<OwnedFd>& processes) {
  for (const OwnedFd& process : processes) {
    pollfd end{.fd = process.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&end, 1, kDeadlineMs), 1);
  }
}

bool is_answered(const std::string& answer, const std::string& body) {
  // Every clone goes on after the answer that said that the function is ready: it is at its second request.
  return answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nrequest 2\n" + body);
}

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

TEST_F(HostAgentTest, EveryRequestIsAnsweredByAFreshClone) {
  Agent agent{{"--deadline-ms", "60000"}};
  agent.await_ready();
  for (int i = 0; i < 30; ++i) {
    const std::string answer = agent.answer("POST", "/", "hello " + std::to_string(i));
    EXPECT_TRUE(is_answered(answer, "HELLO " + std::to_string(i))) << answer;
  }
  const std::string stats = agent.answer("GET", "/stats");
  EXPECT_NE(stats.find(R"("answered":30,"refused":0,"failed":0,"late":0,"unasked":0)"), std::string::npos) << stats;
  EXPECT_NE(stats.find(R"("whole":{"count":30,)"), std::string::npos) << stats;
}

TEST_F(HostAgentTest, AMachineThatGoesBackIsAFreshCloneToEveryRequest) {
  Agent agent{{"--deadline-ms", "60000", "--clones", "1", "--revert"}};
  agent.await_ready();
  agent.await_stats(R"("ready":1)");
  const auto monitors = agent.monitor_ids();
  for (int i = 0; i < 30; ++i) {
    const std::string answer = agent.answer("POST", "/", "hello " + std::to_string(i));
    EXPECT_TRUE(is_answered(answer, "HELLO " + std::to_string(i))) << answer;
  }
  agent.await_stats(R"("ready":1)");
  EXPECT_EQ(agent.monitor_ids(), monitors) << "one process has answered them all";
  EXPECT_TRUE(agent.answer("GET", "/die").starts_with("HTTP/1.1 502 "));
  EXPECT_TRUE(is_answered(agent.answer("POST", "/", "x"), "X"));
  agent.await_stats(R"("ready":1)");
  EXPECT_NE(agent.monitor_ids(), monitors) << "one that has died does not go back";
}

TEST_F(HostAgentTest, AMachineThatHangsGoesBackAsWell) {
  Agent agent{{"--deadline-ms", "300", "--clones", "1", "--revert"}};
  agent.await_ready();
  agent.await_stats(R"("ready":1)");
  const auto monitors = agent.monitor_ids();
  EXPECT_TRUE(agent.answer("GET", "/hang").starts_with("HTTP/1.1 504 "));
  agent.await_stats(R"("ready":1)");
  EXPECT_TRUE(is_answered(agent.answer("POST", "/", "x"), "X"));
  agent.await_stats(R"("ready":1)");
  EXPECT_EQ(agent.monitor_ids(), monitors);
}

TEST_F(HostAgentTest, BodiesOfManySegmentsComeBack) {
  Agent agent{{"--deadline-ms", "60000"}};
  agent.await_ready();
  const std::string answer = agent.answer("POST", "/long", std::string(20'000, 'x'));
  EXPECT_TRUE(is_answered(answer, std::string(20'000, 'X'))) << answer.substr(0, 200);
}

TEST_F(HostAgentTest, ManyClientsAreAnsweredOrToldToComeAgain) {
  Agent agent{{"--deadline-ms", "60000", "--clones", "2"}};
  agent.await_ready();
  std::vector<std::thread> clients;
  std::atomic<int> answered{0};
  std::atomic<int> refused{0};
  for (int client = 0; client < 8; ++client)
    clients.emplace_back([&] {
      for (int i = 0; i < 10; ++i) {
        const std::string answer = agent.answer("POST", "/", "x");
        if (is_answered(answer, "X"))
          ++answered;
        else if (answer.starts_with("HTTP/1.1 503 ") && answer.find("\r\nRetry-After: 1\r\n") != std::string::npos)
          ++refused;
      }
    });
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(answered + refused, 80);
  EXPECT_GT(answered, 0);
}

TEST_F(HostAgentTest, ACloneThatDiesIsABadGatewayAndNobodyElseNotices) {
  Agent agent{{"--deadline-ms", "60000", "--clones", "1"}};
  agent.await_ready();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(agent.answer("GET", "/die").starts_with("HTTP/1.1 502 "));
    EXPECT_TRUE(is_answered(agent.answer("POST", "/", "x"), "X"));
  }
}

TEST_F(HostAgentTest, ItsClonesAreInJailsWhereTheEnvironmentAsksForThem) {
  Agent agent{{"--deadline-ms", "60000", "--clones", "2"}};
  agent.await_ready();
  agent.await_stats(R"("ready":2)");
  const auto clones = agent.monitor_ids();
  EXPECT_EQ(clones.size(), 2U);
  for (const pid_t clone : clones)
    EXPECT_EQ(std::filesystem::equivalent("/proc/" + std::to_string(clone) + "/root/", "/"), !MonitorJail::wanted());
}

TEST_F(HostAgentTest, ACloneThatIsKilledWhileItStandsReadyIsReplaced) {
  Agent agent{{"--deadline-ms", "60000", "--clones", "1"}};
  agent.await_ready();
  agent.await_stats(R"("ready":1)");
  const auto monitors = agent.monitors();
  ASSERT_EQ(monitors.size(), 1U);
  ::syscall(SYS_pidfd_send_signal, monitors.front().get(), SIGKILL, nullptr, 0);
  expect_ended(monitors);
  EXPECT_TRUE(is_answered(agent.answer("POST", "/", "x"), "X"));
}

TEST_F(HostAgentTest, ACloneThatDoesNotAnswerIsAGatewayTimeout) {
  Agent agent{{"--deadline-ms", "300", "--clones", "1"}};
  agent.await_ready();
  agent.await_stats(R"("ready":1)");
  const double begin = now_us();
  EXPECT_TRUE(agent.answer("GET", "/hang").starts_with("HTTP/1.1 504 "));
  EXPECT_GE(now_us() - begin, 290e3);
  agent.await_stats(R"("busy":0,"waiting":0)");
  EXPECT_NE(agent.answer("GET", "/stats").find(R"("late":1)"), std::string::npos);
}

TEST_F(HostAgentTest, TooManyAreRefusedAndClientsThatHangUpMakeRoom) {
  Agent agent{{"--deadline-ms", "600000", "--clones", "1"}};
  agent.await_ready();
  OwnedFd first = agent.ask("GET", "/hang");
  agent.await_stats(R"("busy":1,"waiting":0)");
  OwnedFd second = agent.ask("GET", "/hang");
  agent.await_stats(R"("busy":1,"waiting":1)");
  const std::string answer = agent.answer("POST", "/", "x");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 503 ")) << answer;
  EXPECT_NE(answer.find("\r\nRetry-After: 1\r\n"), std::string::npos) << answer;
  first.reset();
  second.reset();
  agent.await_stats(R"("unasked":2)");
  EXPECT_TRUE(is_answered(agent.answer("POST", "/", "x"), "X"));
}

TEST_F(HostAgentTest, SigtermEndsEverythingAndLeavesNoFiles) {
  Agent agent{{"--deadline-ms", "600000", "--clones", "3"}};
  agent.await_ready();
  const OwnedFd unanswered = agent.ask("GET", "/hang");
  agent.await_stats(R"("ready":2,"busy":1)");
  const auto monitors = agent.monitors();
  EXPECT_EQ(monitors.size(), 3U);
  EXPECT_TRUE(agent.has_files());
  agent.signal(SIGTERM);
  EXPECT_TRUE(Agent::answer_on(unanswered).starts_with("HTTP/1.1 502 "));
  EXPECT_EQ(agent.wait(), 0);
  expect_ended(monitors);
  EXPECT_FALSE(agent.has_files());
}

TEST_F(HostAgentTest, SigtermEndsItBeforeTheFunctionIsReady) {
  Agent agent{{"--ready-path", "/hang", "--boot-deadline-s", "600"}};
  for (const double deadline = now_us() + kDeadlineMs * 1e3; !agent.has_files(); ::sched_yield())
    if (now_us() > deadline) give_up("the host agent makes no files");
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 1);
  EXPECT_FALSE(agent.has_files());
}

TEST_F(HostAgentTest, AnAgentThatIsKilledTakesItsClonesAlong) {
  Agent agent{{"--deadline-ms", "600000", "--clones", "3"}};
  agent.await_ready();
  const OwnedFd unanswered = agent.ask("GET", "/hang");
  agent.await_stats(R"("ready":2,"busy":1)");
  const auto monitors = agent.monitors();
  EXPECT_EQ(monitors.size(), 3U);
  agent.signal(SIGKILL);
  EXPECT_EQ(agent.wait(), 256 + SIGKILL);
  expect_ended(monitors);
}

TEST_F(HostAgentTest, AFunctionThatCannotBootIsSaid) {
  Agent agent{{"--boot-deadline-s", "600"}, "reset"};
  EXPECT_EQ(agent.wait(), 1);
  EXPECT_FALSE(agent.has_files());
}

}  // namespace
}  // namespace mayfly::testing
