// The example of a host agent with clones that are branched off one machine (--branch).

#include "tests/integration/host_agent_fixture.h"

#include <atomic>
#include <csignal>
#include <set>
#include <thread>

namespace mayfly::testing {
namespace {

class HostAgentBranchTest : public HostAgentTest {
 protected:
  static std::vector<std::string> options(const std::string& clones, const std::string& deadline_ms = "60000") {
    return {"--branch", "--clones", clones, "--deadline-ms", deadline_ms};
  }
  static void expect_answers(const Agent& agent, const std::string& body = "x", const std::string& capitals = "X") {
    const std::string answer = agent.answer("POST", "/", body);
    EXPECT_TRUE(Agent::is_answered(answer, capitals)) << answer;
  }
};

TEST_F(HostAgentBranchTest, EveryRequestIsAnsweredByAFreshBranch) {
  Agent agent{options("3")};
  agent.await_ready();
  agent.await_stats(R"("ready":3)");
  const auto parent = agent.monitor_ids();
  ASSERT_EQ(parent.size(), 1U) << "one machine has loaded the snapshot";
  std::set<pid_t> seen;
  for (int i = 0; i < 30; ++i) {
    for (const pid_t branch : agent.branch_ids()) seen.insert(branch);
    expect_answers(agent, "hello " + std::to_string(i), "HELLO " + std::to_string(i));
  }
  EXPECT_EQ(agent.monitor_ids(), parent);
  EXPECT_GT(seen.size(), 3U) << "used ones end";
  const std::string stats = agent.stats();
  EXPECT_NE(stats.find(R"("answered":30,"refused":0,"failed":0,"late":0,"unasked":0)"), std::string::npos) << stats;
  EXPECT_NE(stats.find(R"("answered_by":{"source":0,"clones":30})"), std::string::npos) << stats;
}

TEST_F(HostAgentBranchTest, SeveralAtOnceAreAnsweredByTheirOwn) {
  Agent agent{options("4")};
  agent.await_ready();
  std::vector<std::thread> clients;
  std::atomic<int> answered{0};
  for (int client = 0; client < 4; ++client)
    clients.emplace_back([&agent, &answered, client] {
      const std::string digit = std::to_string(client);
      // Bodies of several segments, so that a frame at a wrong TAP is seen.
      const std::string body = std::string(4'000, 'x') + digit;
      for (int i = 0; i < 20; ++i)
        if (Agent::is_answered(agent.answer("POST", "/", body), std::string(4'000, 'X') + digit)) ++answered;
    });
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(answered, 80) << "as many may wait as there are places, so nobody is refused";
}

TEST_F(HostAgentBranchTest, ParentAndBranchesAreInAJailWhereTheEnvironmentAsksForIt) {
  Agent agent{options("2")};
  agent.await_ready();
  agent.await_stats(R"("ready":2)");
  EXPECT_EQ(agent.branch_ids().size(), 2U);
  Agent::expect_in_jails(agent.monitor_ids());
  Agent::expect_in_jails(agent.branch_ids());
}

TEST_F(HostAgentBranchTest, ABranchThatDiesIsABadGatewayAndNobodyElseNotices) {
  Agent agent{options("1")};
  agent.await_ready();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(agent.answer("GET", "/die").starts_with("HTTP/1.1 502 "));
    expect_answers(agent);
  }
}

TEST_F(HostAgentBranchTest, ABranchThatDoesNotAnswerIsAGatewayTimeoutAndEnds) {
  Agent agent{options("1", "300")};
  agent.await_ready();
  agent.await_stats(R"("ready":1)");
  const auto before = agent.branch_ids();
  EXPECT_TRUE(agent.answer("GET", "/hang").starts_with("HTTP/1.1 504 "));
  agent.await_stats(R"("ready":1)");
  EXPECT_NE(agent.branch_ids(), before);
  EXPECT_NE(agent.stats().find(R"("late":1)"), std::string::npos);
}

TEST_F(HostAgentBranchTest, ABranchThatIsKilledWhileItStandsReadyIsReplacedBeforeARequest) {
  Agent agent{options("1")};
  agent.await_ready();
  agent.await_stats(R"("ready":1)");
  const auto before = agent.branch_ids();
  ASSERT_EQ(before.size(), 1U);
  ::kill(before.front(), SIGKILL);
  const double deadline = now_us() + Agent::kDeadlineMs * 1e3;
  for (auto now = before; now.empty() || now == before; now = agent.branch_ids())
    if (now_us() > deadline) give_up("no other branch comes");
  expect_answers(agent);
  EXPECT_NE(agent.stats().find(R"("failed":0)"), std::string::npos);
}

TEST_F(HostAgentBranchTest, AParentThatIsKilledIsReplacedAndItsBranchesStay) {
  Agent agent{options("2")};
  agent.await_ready();
  agent.await_stats(R"("ready":2)");
  const OwnedFd held = agent.ask("GET", "/hang");
  agent.await_stats(R"("ready":1,"busy":1)");
  for (int i = 0; i < 3; ++i) {
    agent.await_stats(R"("ready":1,"busy":1)");  // so the parent is at work on no other branch
    const auto parent = agent.monitor_ids();
    ASSERT_EQ(parent.size(), 1U);
    ::kill(parent.front(), SIGKILL);
    const double deadline = now_us() + Agent::kDeadlineMs * 1e3;
    for (auto now = parent; now.empty() || now == parent; now = agent.monitor_ids())
      if (now_us() > deadline) give_up("no other parent comes");
    for (int j = 0; j < 5; ++j) expect_answers(agent);
  }
  const std::string stats = agent.stats();
  EXPECT_NE(stats.find(R"("busy":1)"), std::string::npos) << "the first request's branch is at it still: " << stats;
  EXPECT_NE(stats.find(R"("answered":15,"refused":0,"failed":0)"), std::string::npos) << stats;
}

TEST_F(HostAgentBranchTest, EverythingIsMadeAnewWhenTheFirstProcessOfItsNamespaceIsKilled) {
  Agent agent{options("2")};
  agent.await_ready();
  agent.await_stats(R"("ready":2)");
  const auto before = agent.monitors();
  EXPECT_EQ(before.size(), 3U) << "a parent and two branches";
  const auto first = agent.first_process();
  ASSERT_TRUE(first);
  ::kill(*first, SIGKILL);
  Agent::expect_ended(before);
  for (int i = 0; i < 5; ++i) expect_answers(agent);
}

TEST_F(HostAgentBranchTest, SigtermEndsEverythingAndLeavesNoFiles) {
  Agent agent{options("3", "600000")};
  agent.await_ready();
  const OwnedFd unanswered = agent.ask("GET", "/hang");
  agent.await_stats(R"("ready":2,"busy":1)");
  const auto monitors = agent.monitors();
  EXPECT_EQ(monitors.size(), 4U) << "a parent and three branches";
  EXPECT_TRUE(agent.has_files());
  agent.signal(SIGTERM);
  EXPECT_TRUE(Agent::answer_on(unanswered).starts_with("HTTP/1.1 502 "));
  EXPECT_EQ(agent.wait(), 0);
  Agent::expect_ended(monitors);
  EXPECT_FALSE(agent.has_files());
}

TEST_F(HostAgentBranchTest, AnAgentThatIsKilledTakesItsBranchesAlong) {
  Agent agent{options("3", "600000")};
  agent.await_ready();
  const OwnedFd unanswered = agent.ask("GET", "/hang");
  agent.await_stats(R"("ready":2,"busy":1)");
  const auto monitors = agent.monitors();
  EXPECT_EQ(monitors.size(), 4U) << "a parent and three branches";
  agent.signal(SIGKILL);
  EXPECT_EQ(agent.wait(), 256 + SIGKILL);
  Agent::expect_ended(monitors);
}

TEST_F(HostAgentBranchTest, AnAgentThatIsKilledTakesBranchesWithoutAParentAlong) {
  Agent agent{options("2", "600000")};
  agent.await_ready();
  agent.await_stats(R"("ready":2)");
  const auto monitors = agent.monitors();
  const auto parent = agent.monitor_ids();
  ASSERT_EQ(parent.size(), 1U);
  agent.signal(SIGSTOP);  // so it does not make another
  ::kill(parent.front(), SIGKILL);
  agent.signal(SIGKILL);
  EXPECT_EQ(agent.wait(), 256 + SIGKILL);
  Agent::expect_ended(monitors);
}

}  // namespace
}  // namespace mayfly::testing
