// The example of a host agent that answers from the booted machine until a live snapshot of it has clones (--live).

#include "tests/integration/host_agent_fixture.h"

#include <csignal>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>

namespace mayfly::testing {
namespace {

class HostAgentLiveTest : public HostAgentTest {
 protected:
  static std::vector<std::string> options(const std::vector<std::string>& more = {}) {
    std::vector<std::string> all = {"--live", "--warm-requests", "5", "--deadline-ms", "60000"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  /// The booted function's first request was the agent's, to learn that it is ready.
  static constexpr unsigned kFirst = 2;
  static constexpr unsigned kOfClones = kFirst + 5;

  /// Which of its machine's requests it was; 0: it is not answered.
  static unsigned request_of(const std::string& answer, const std::string& body) {
    const std::size_t at = answer.find("\r\n\r\nrequest ");
    if (answer.starts_with("HTTP/1.1 200 ") && at != std::string::npos && answer.ends_with("\n" + body))
      return static_cast<unsigned>(std::strtoul(answer.c_str() + at + 12, nullptr, 10));
    ADD_FAILURE() << "the agent has answered: " << answer.substr(0, 200);
    return 0;
  }
  static unsigned ask(const Agent& agent) { return request_of(agent.answer("POST", "/", "x"), "X"); }

  /// Another clone does. Where none stands ready yet, the source answers, whose requests have higher numbers.
  static void expect_clone_answers(const Agent& agent, unsigned number) {
    const double deadline = now_us() + Agent::kDeadlineMs * 1e3;
    while (ask(agent) != number)
      if (now_us() > deadline) give_up("no clone answers request " + std::to_string(number));
  }

  struct AnsweredBy {
    unsigned long source;
    unsigned long clones;
  };
  static AnsweredBy answered_by(const Agent& agent) {
    const std::string stats = agent.stats();
    const auto number_after = [&stats](const std::string& name, std::size_t from) {
      const std::size_t at = stats.find(name, from);
      if (at == std::string::npos) give_up("no " + name + " in " + stats);
      return std::strtoul(stats.c_str() + at + name.size(), nullptr, 10);
    };
    const std::size_t from = stats.find("\"answered_by\":");
    return {.source = number_after("\"source\":", from), .clones = number_after("\"clones\":", from)};
  }

  /// Clients, all at once, until clones have answered; each request is answered by the source or by a clone, once.
  static void expect_takeover(const Agent& agent, unsigned clients) {
    std::mutex mutex;
    std::map<unsigned, unsigned long> seen;  // how many answers were a machine's which
    std::vector<std::thread> threads;
    for (unsigned client = 0; client < clients; ++client)
      threads.emplace_back([&agent, &mutex, &seen, client] {
        const double deadline = now_us() + Agent::kDeadlineMs * 1e3;
        const std::string digit = std::to_string(client);
        do {
          const unsigned request =
              request_of(agent.answer("POST", "/", std::string(3'000, 'x') + digit), std::string(3'000, 'X') + digit);
          const std::scoped_lock lock{mutex};
          ++seen[request];
        } while (now_us() < deadline && answered_by(agent).clones < 10);
      });
    for (std::thread& thread : threads) thread.join();
    const AnsweredBy by = answered_by(agent);
    EXPECT_GE(by.clones, 10U);
    EXPECT_GT(by.source, 5U) << "the source answers while its snapshot is written";
    for (unsigned request = kFirst; request < kFirst + by.source; ++request)
      EXPECT_EQ(seen[request], request == kOfClones ? 1 + by.clones : 1) << "request " << request;
    unsigned long all = 0;
    for (const auto& [request, count] : seen) all += count;
    EXPECT_EQ(all, by.source + by.clones);
    const std::string stats = agent.stats();
    EXPECT_NE(stats.find(R"("refused":0,"failed":0,"late":0,"unasked":0)"), std::string::npos) << stats;
    EXPECT_NE(stats.find(R"("live_snapshot":{"state":"written","pause_us":)"), std::string::npos) << stats;
    EXPECT_EQ(stats.find(R"("pause_us":0})"), std::string::npos) << stats;
  }
};

TEST_F(HostAgentLiveTest, ClonesTakeOverAndNoRequestIsLostOrAnsweredTwice) {
  Agent agent{options({"--memory-mib", "1024"})};
  agent.await_ready();
  const auto source = agent.monitors();
  ASSERT_EQ(source.size(), 1U);
  expect_takeover(agent, 1);
  Agent::expect_ended(source);
}

TEST_F(HostAgentLiveTest, BranchesTakeOverFromManyClients) {
  Agent agent{options({"--memory-mib", "1024", "--branch"})};
  agent.await_ready();
  expect_takeover(agent, 4);
}

TEST_F(HostAgentLiveTest, ClonesThatGoBackTakeOver) {
  Agent agent{options({"--memory-mib", "1024", "--revert"})};
  agent.await_ready();
  expect_takeover(agent, 2);
}

TEST_F(HostAgentLiveTest, TheBootedFunctionAnswersUntilItIsWarm) {
  Agent agent{{"--live", "--warm-requests", "1000", "--deadline-ms", "60000"}};
  agent.await_ready();
  for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(ask(agent), kFirst + i);
  const std::string stats = agent.stats();
  EXPECT_NE(stats.find(R"("answered_by":{"source":20,"clones":0},"live_snapshot":{"state":"none"})"), std::string::npos)
      << stats;
  EXPECT_EQ(agent.monitor_ids().size(), 1U);
}

TEST_F(HostAgentLiveTest, ASourceThatDiesOrHangsIsBootedAnewAndNoCloneIsMadeOfIt) {
  Agent agent{{"--live", "--warm-requests", "5", "--deadline-ms", "20000"}};
  agent.await_ready();
  EXPECT_EQ(ask(agent), kFirst);
  EXPECT_TRUE(agent.answer("GET", "/die").starts_with("HTTP/1.1 502 "));
  EXPECT_EQ(ask(agent), kFirst);
  EXPECT_EQ(ask(agent), kFirst + 1);
  EXPECT_TRUE(agent.answer("GET", "/hang").starts_with("HTTP/1.1 504 "));
  for (unsigned i = 0; i < 5; ++i) EXPECT_EQ(ask(agent), kFirst + i);
  agent.await_stats(R"("state":"written")");
  const double deadline = now_us() + Agent::kDeadlineMs * 1e3;
  while (answered_by(agent).clones == 0) {
    if (now_us() > deadline) give_up("no clone answers");
    (void)ask(agent);
  }
  expect_clone_answers(agent, kOfClones);
}

TEST_F(HostAgentLiveTest, ASnapshotThatFailsIsTakenAgain) {
  Agent agent{options()};
  agent.await_ready();
  const std::string in_the_way = agent.work_directory() + "/memory";
  std::filesystem::create_directory(in_the_way);
  for (unsigned i = 0; i < 6; ++i) EXPECT_EQ(ask(agent), kFirst + i);
  agent.await_stats(R"("state":"none")");
  std::filesystem::remove(in_the_way);
  const double deadline = now_us() + Agent::kDeadlineMs * 1e3;
  unsigned last = kFirst + 5;
  while (answered_by(agent).clones == 0) {
    if (now_us() > deadline) give_up("no clone answers");
    last = ask(agent);
  }
  EXPECT_GE(last, kOfClones + 5) << "clones are of the second snapshot";
  expect_clone_answers(agent, last);
}

TEST_F(HostAgentLiveTest, SigtermEndsTheSourceAndLeavesNoFiles) {
  Agent agent{options()};
  agent.await_ready();
  const OwnedFd unanswered = agent.ask("GET", "/hang");
  agent.await_stats(R"("busy":1)");
  const auto monitors = agent.monitors();
  EXPECT_EQ(monitors.size(), 1U);
  agent.signal(SIGTERM);
  EXPECT_TRUE(Agent::answer_on(unanswered).starts_with("HTTP/1.1 502 "));
  EXPECT_EQ(agent.wait(), 0);
  Agent::expect_ended(monitors);
  EXPECT_FALSE(agent.has_files());
}

TEST_F(HostAgentLiveTest, AnAgentThatIsToldToStopOrKilledWhileTheSnapshotIsWrittenLeavesNoProcess) {
  for (const int signal : {SIGTERM, SIGKILL}) {
    Agent agent{options({"--memory-mib", "1024", "--branch"})};
    agent.await_ready();
    for (unsigned i = 0; i < 5; ++i) EXPECT_EQ(ask(agent), kFirst + i);
    const auto monitors = agent.monitors();
    agent.signal(signal);
    EXPECT_EQ(agent.wait(), signal == SIGTERM ? 0 : 256 + SIGKILL);
    Agent::expect_ended(monitors);
  }
}

TEST_F(HostAgentLiveTest, AFunctionThatCannotBootIsSaid) {
  Agent agent{options({"--boot-deadline-s", "600"}), "reset"};
  EXPECT_EQ(agent.wait(), 1);
  EXPECT_FALSE(agent.has_files());
}

}  // namespace
}  // namespace mayfly::testing
