// The example of a host agent with clones that load their snapshot, or go back to it.

#include "tests/integration/host_agent_fixture.h"
#include "vmm/base/process_fd.h"

#include <atomic>
#include <csignal>
#include <thread>

namespace mayfly::testing {
namespace {

TEST_F(HostAgentTest, EveryRequestIsAnsweredByAFreshClone) {
  Agent agent{{"--deadline-ms", "60000"}};
  agent.await_ready();
  for (int i = 0; i < 30; ++i) {
    const std::string answer = agent.answer("POST", "/", "hello " + std::to_string(i));
    EXPECT_TRUE(Agent::is_answered(answer, "HELLO " + std::to_string(i))) << answer;
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
    EXPECT_TRUE(Agent::is_answered(answer, "HELLO " + std::to_string(i))) << answer;
  }
  agent.await_stats(R"("ready":1)");
  EXPECT_EQ(agent.monitor_ids(), monitors) << "one process has answered them all";
  EXPECT_TRUE(agent.answer("GET", "/die").starts_with("HTTP/1.1 502 "));
  EXPECT_TRUE(Agent::is_answered(agent.answer("POST", "/", "x"), "X"));
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
  EXPECT_TRUE(Agent::is_answered(agent.answer("POST", "/", "x"), "X"));
  agent.await_stats(R"("ready":1)");
  EXPECT_EQ(agent.monitor_ids(), monitors);
}

TEST_F(HostAgentTest, BodiesOfManySegmentsComeBack) {
  Agent agent{{"--deadline-ms", "60000"}};
  agent.await_ready();
  const std::string answer = agent.answer("POST", "/long", std::string(20'000, 'x'));
  EXPECT_TRUE(Agent::is_answered(answer, std::string(20'000, 'X'))) << answer.substr(0, 200);
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
        if (Agent::is_answered(answer, "X"))
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
    EXPECT_TRUE(Agent::is_answered(agent.answer("POST", "/", "x"), "X"));
  }
}

TEST_F(HostAgentTest, ItsClonesAreInJailsWhereTheEnvironmentAsksForThem) {
  Agent agent{{"--deadline-ms", "60000", "--clones", "2"}};
  agent.await_ready();
  agent.await_stats(R"("ready":2)");
  const auto clones = agent.monitor_ids();
  EXPECT_EQ(clones.size(), 2U);
  Agent::expect_in_jails(clones);
}

TEST_F(HostAgentTest, ACloneThatIsKilledWhileItStandsReadyIsReplaced) {
  Agent agent{{"--deadline-ms", "60000", "--clones", "1"}};
  agent.await_ready();
  agent.await_stats(R"("ready":1)");
  const auto monitors = agent.monitors();
  ASSERT_EQ(monitors.size(), 1U);
  EXPECT_TRUE(signal_process(monitors.front(), SIGKILL));
  Agent::expect_ended(monitors);
  EXPECT_TRUE(Agent::is_answered(agent.answer("POST", "/", "x"), "X"));
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
  EXPECT_TRUE(Agent::is_answered(agent.answer("POST", "/", "x"), "X"));
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
  Agent::expect_ended(monitors);
  EXPECT_FALSE(agent.has_files());
}

TEST_F(HostAgentTest, SigtermEndsItBeforeTheFunctionIsReady) {
  Agent agent{{"--ready-path", "/hang", "--boot-deadline-s", "600"}};
  for (const double deadline = now_us() + Agent::kDeadlineMs * 1e3; !agent.has_files(); ::sched_yield())
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
  Agent::expect_ended(monitors);
}

TEST_F(HostAgentTest, AFunctionThatCannotBootIsSaid) {
  Agent agent{{"--boot-deadline-s", "600"}, "reset"};
  EXPECT_EQ(agent.wait(), 1);
  EXPECT_FALSE(agent.has_files());
}

}  // namespace
}  // namespace mayfly::testing
