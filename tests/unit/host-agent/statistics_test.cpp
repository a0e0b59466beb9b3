#include "tests/host-agent/statistics.h"

#include "tests/host-agent/agent.h"
#include "tests/host-agent/status_page.h"
#include "vmm/base/json_value.h"

#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace mayfly::host_agent {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""us;

std::string json_of_statistics(const Statistics& statistics) {
  JsonWriter json;
  json.begin_object();
  statistics.write_counts(json);
  statistics.write_latency(json);
  json.end_object();
  return std::move(json).take();
}

TEST(StatisticsTest, EachEndIsCountedAsItself) {
  Statistics statistics;
  using enum Statistics::End;
  for (const auto end : {Refused, Failed, Failed, Late, Late, Late, Unasked, Unasked, Unasked, Unasked})
    statistics.note(end);
  const std::string json = json_of_statistics(statistics);
  EXPECT_NE(json.find(R"("requests":{"answered":0,"refused":1,"failed":2,"late":3,"unasked":4})"), std::string::npos)
      << json;
}

TEST(StatisticsTest, AnAnswerIsInEachHistogramByItsOwnTime) {
  Statistics statistics;
  statistics.note_answer({.whole = 3ms, .loading = 1ms, .answering = 2ms}, /*by_source=*/true);
  statistics.note_answer({.whole = 3ms, .loading = 1ms, .answering = 2ms}, /*by_source=*/false);
  statistics.note_answer({.whole = 5us, .loading = 2us, .answering = 3us}, /*by_source=*/false);
  const std::string json = json_of_statistics(statistics);
  EXPECT_NE(json.find(R"("answered_by":{"source":1,"clones":2})"), std::string::npos) << json;
  const auto longest = [&json](const char* histogram) {
    const auto begin = json.find("\"longest\":", json.find(std::string{'"'} + histogram + "\":"));
    return std::stoul(json.substr(begin + 10));
  };
  EXPECT_EQ(longest("whole"), 3000U) << json;
  EXPECT_EQ(longest("loading"), 1000U) << json;
  EXPECT_EQ(longest("answering"), 2000U) << json;
  EXPECT_NE(json.find(R"("buckets":[{"from":5,"to":6,"count":1},)"), std::string::npos) << json;
}

/// What a client at the status port is answered.
std::string status_answer(Agent& agent, const std::string& line) {
  std::array<int, 2> ends{};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  OwnedFd client{ends[0]};
  {
    const OwnedFd server{ends[1]};
    agent.serve_status({.request_line = line, .connection = {}, .body = {}}, server.get());
  }
  std::string answer;
  std::array<char, 4096> piece{};
  for (ssize_t count = 0; (count = ::read(client.get(), piece.data(), piece.size())) > 0;)
    answer.append(piece.data(), static_cast<std::size_t>(count));
  return answer;
}

TEST(StatusTest, TheStatusPortHasThePageAndItsNumbersAndNothingElse) {
  ClonePool pool{2};
  Agent agent{pool, {}};
  const std::string page = status_answer(agent, "GET / HTTP/1.1");
  EXPECT_TRUE(page.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n")) << page;
  EXPECT_NE(page.find("Content-Security-Policy: default-src 'none'; "), std::string::npos);
  EXPECT_TRUE(page.ends_with(std::string{status_page()} + "\n"));
  const std::string stats = status_answer(agent, "GET /stats HTTP/1.1");
  EXPECT_TRUE(stats.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")) << stats;
  for (const char* line : {"GET /other HTTP/1.1", "POST / HTTP/1.1", "GET /statsx HTTP/1.1"})
    EXPECT_TRUE(status_answer(agent, line).starts_with("HTTP/1.1 404 ")) << line;
}

TEST(StatusTest, StatsAreJsonWithAllThatThePageDraws) {
  ClonePool pool{2};
  Agent agent{pool, {}};
  const std::string stats = agent.stats();
  const auto json = parse_json(stats, "stats");
  ASSERT_TRUE(json) << json.error().message;
  EXPECT_TRUE(stats.starts_with(R"({"clones":{"ready":0,"busy":0,"waiting":0},)"
                                R"("memory":{"monitors":0,"pss_kib":0,"private_kib":0},"uptime_ms":)"))
      << stats;
}

TEST(StatusPageTest, IsWholeAndLoadsNothingFromElsewhere) {
  const std::string_view page = status_page();
  EXPECT_TRUE(page.starts_with("<!doctype html>"));
  EXPECT_TRUE(page.ends_with("</html>\n"));
  for (const char* word : {"src=", "@import", "url(", "import(", "https:"})
    EXPECT_EQ(page.find(word), std::string_view::npos) << word;
}

}  // namespace
}  // namespace mayfly::host_agent
