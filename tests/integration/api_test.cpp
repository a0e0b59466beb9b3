// The API of a real process under every request that its description forbids, under thousands of random ones, and with
// clients that take their time.

#include "tests/integration/kvm_required.h"
#include "tests/support/api_probes.h"
#include "tests/support/monitor.h"
#include "tests/support/repeats.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <random>
#include <string>
#include <vector>

namespace mayfly::testing {
namespace {

#if defined(MAYFLY_SANITIZED)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

/// A monitor that works in a directory of its own: a path such as "x", which samples have, is there.
class ApiTest : public ::testing::Test {
 protected:
  ScratchDirectory directory_;
  Monitor monitor_{{}, {"sh", "-c", "cd \"$0\" && exec \"$@\"", directory_.file(".")}};
};

TEST_F(ApiTest, WhatItsDescriptionForbidsIsRefusedInWordsAndChangesNothing) {
  const std::string before = monitor_.get("/vm/config").body;
  for (const ApiProbe& probe : probes_of(ApiDescription::ours())) {
    if (probe.allowed()) continue;
    const HttpAnswer answer = monitor_.send(probe.method, probe.path, probe.body);
    const std::string what = probe.method + ' ' + probe.path + ' ' + probe.body + ": " + answer.body;
    EXPECT_EQ(answer.status, probe.status) << what;
    const auto body = parse_json(answer.body, "the answer");
    ASSERT_TRUE(body) << what;
    EXPECT_NE(text_of(find(*body, "fault_message")).find(probe.says), std::string::npos)
        << what << " lacks " << probe.says;
  }
  EXPECT_EQ(monitor_.get("/vm/config").body, before);
  EXPECT_NE(monitor_.get("/").body.find("Not started"), std::string::npos);
}

TEST(MetadataApiTest, WhatIsOverTheLimitIs413AndDeepDocumentsAreTaken) {
  Monitor monitor{{"--mmds-size-limit", "700"}};
  std::string deep = "1";
  for (int i = 0; i < 100; ++i) deep = R"({"a":)" + deep + '}';
  EXPECT_EQ(monitor.put("/mmds", deep).status, 204);
  EXPECT_EQ(monitor.get("/mmds").body, deep);
  const std::string large = R"({"b":")" + std::string(200, 'x') + "\"}";
  EXPECT_EQ(monitor.patch("/mmds", large).status, 413);
  EXPECT_EQ(monitor.put("/mmds", R"({"b":")" + std::string(700, 'x') + "\"}").status, 413);
  EXPECT_EQ(monitor.get("/mmds").body, deep);
  EXPECT_EQ(monitor.put("/mmds", large).status, 204);
  EXPECT_EQ(monitor.put("/mmds", "[]").status, 400);
}

// --- Random requests

/// Bytes that clients send in their worst hours; the same ones in every run.
class RandomRequests {
 public:
  /// But for those that start the machine: its memory is the guest's.
  RandomRequests() : probes_(probes_of(ApiDescription::ours())) {
    std::erase_if(probes_, [](const ApiProbe& probe) { return probe.body.find("InstanceStart") != std::string::npos; });
  }

  std::string next() {
    const ApiProbe& probe = any(probes_);
    switch (below(9)) {
      case 0:
        return message(probe, probe.body);
      case 1:
        return message(probe, any(probes_).body);  // of another path
      case 2:
        return message(probe, garbled(probe.body));
      case 3:
        return message(probe, probe.body.substr(0, below(probe.body.size() + 1)) + any(probes_).body);
      case 4:
        return message(probe, extreme());
      case 5:
        return garbled(message(probe, probe.body));
      case 6:
        return with_odd_framing(probe);
      case 7:
        return message(probe, probe.body) + garbled(message(any(probes_), probe.body));  // one behind the other
      default:
        return bytes(below(400));
    }
  }

 private:
  std::size_t below(std::size_t end) { return std::uniform_int_distribution<std::size_t>{0, end - 1}(random_); }
  template <typename T>
  const T& any(const std::vector<T>& all) {
    return all[below(all.size())];
  }
  /// Any byte but '/': files that it names are in the monitor's directory.
  char byte() {
    const char drawn = static_cast<char>(below(256));
    return drawn == '/' ? '{' : drawn;
  }
  std::string bytes(std::size_t count) {
    std::string drawn(count, ' ');
    std::ranges::generate(drawn, [this] { return byte(); });
    return drawn;
  }
  std::string garbled(std::string text) {
    for (std::size_t changes = 1 + below(4); changes > 0 && !text.empty(); --changes) {
      const std::size_t at = below(text.size());
      const std::size_t way = below(3);
      if (way == 0) text[at] = byte();
      if (way == 1) text.erase(at, 1 + below(4));
      if (way == 2) text.insert(at, bytes(1 + below(4)));
    }
    return text;
  }
  /// JSON that is deep, long, or holds numbers that nothing can hold.
  std::string extreme() {
    const std::size_t size = 1 + below(1000);
    switch (below(6)) {
      case 0:
        return std::string(20 * size, '[');
      case 1:
        return std::string(size, '[') + std::string(size, ']');
      case 2:
        return R"({"state": ")" + std::string(40 * size, 'x') + "\"}";
      case 3:
        return R"({"mem_size_mib": )" + std::string(size, '9') + ", \"vcpu_count\": -1e" + std::to_string(size) + "}";
      case 4: {
        std::string text = "[1";
        for (std::size_t i = 0; i < size; ++i) text += ",1";
        return text + "]";
      }
      default:
        return std::string(60 * size, ' ');  // some of them over the limit
    }
  }
  static std::string message(const ApiProbe& probe, const std::string& body) {
    return probe.method + ' ' + probe.path + " HTTP/1.1\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\n\r\n" + body;
  }
  std::string with_odd_framing(const ApiProbe& probe) {
    const std::string line = probe.method + ' ' + probe.path + " HTTP/1.";
    switch (below(8)) {
      case 0:
        return line + "1\r\nContent-Length: " + std::to_string(below(1'000'000)) + "\r\n\r\n" + probe.body;
      case 1:
        return line + "1\r\nContent-Length: -1\r\n\r\n" + probe.body;
      case 2:
        return line + "1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n" + probe.body;
      case 3:
        return line + "1\r\nTransfer-Encoding: chunked\r\n\r\n" + std::to_string(below(100)) + "\r\n" + probe.body +
               "\r\n0\r\n\r\n";
      case 4:
        return line + "1\r\n" + std::string(below(20'000), 'h') + ": x\r\n\r\n";
      case 5:
        return "GET " + std::string(below(20'000), 'p') + " HTTP/1.1\r\n\r\n";
      case 6:
        return line + "0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n{}";
      default:
        return line + "9\r\n: \r\n\r\n" + probe.body;
    }
  }

  std::mt19937 random_{5};
  std::vector<ApiProbe> probes_;
};

/// What one client is told that sends `bytes` and no more.
std::string told(const std::string& socket, const std::string& bytes) {
  const OwnedFd connection = connect_unix(socket);
  EXPECT_TRUE(connection) << "the server takes no clients any more";
  // The server may hang up before it has read all.
  static_cast<void>(::send(connection.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL));
  ::shutdown(connection.get(), SHUT_WR);
  std::string answer;
  std::array<char, 4096> piece{};
  for (ssize_t count = 0; (count = ::recv(connection.get(), piece.data(), piece.size(), 0)) != 0;) {
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) break;  // it had not read all
    answer.append(piece.data(), static_cast<std::size_t>(count));
  }
  return answer;
}

TEST_F(ApiTest, TenThousandRandomRequestsLeaveItAnsweringAndItsMemoryFlat) {
  RandomRequests requests;
  const auto send = [&](int count) {
    for (int i = 0; i < count; ++i) {
      const std::string bytes = requests.next();
      const std::string answer = told(monitor_.socket_path(), bytes);
      ASSERT_TRUE(answer.empty() || answer.starts_with("HTTP/1.1 ")) << answer;
      ASSERT_EQ(answer.find("HTTP/1.1 5"), std::string::npos) << bytes << "\n" << answer;
    }
  };
  // What the allocator keeps for the next request comes and goes: the most of it before against the least of it after.
  std::vector<long> resident;
  const auto measure = [&] {
    resident.clear();
    for (int i = 0; i < 20 && !HasFatalFailure(); ++i) {
      send(20);
      resident.push_back(monitor_.process().status_kib("RssAnon"));
    }
  };
  send(2000);
  measure();
  const long before = std::ranges::max(resident);
  for (int i = 0; i < repeats(20, 5) && !HasFatalFailure(); ++i) {
    send(500);
    ASSERT_EQ(monitor_.get("/version").status, 200);
  }
  measure();
  // Of 10,000 requests that each left a hundred bytes behind, a mebibyte would be seen.
  if (!kSanitized) {
    EXPECT_LE(std::ranges::min(resident) - before, 1024) << "KiB more than " << before;
  }
  EXPECT_NE(monitor_.get("/").body.find("Not started"), std::string::npos);
  monitor_.signal(SIGTERM);
  EXPECT_EQ(monitor_.wait(), 143);
}

// --- Slow clients

class SlowClientTest : public KvmTest {
 protected:
  /// A client with room for little, which sends as much as goes and reads nothing.
  static OwnedFd greedy_client(const std::string& socket) {
    OwnedFd connection = connect_unix(socket);
    const int small = 4096;
    ::setsockopt(connection.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    const std::string request = "GET /vm/config HTTP/1.1\r\n\r\n";
    for (int i = 0; i < 100'000; ++i)
      if (::send(connection.get(), request.data(), request.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
    return connection;
  }
  void expect_done(const HttpAnswer& answer) const { EXPECT_EQ(answer.status, 204) << answer.body; }
  /// A whole turn of what must not wait.
  void pause_snapshot_resume(int turn) {
    const std::string name = scratch_.file("turn" + std::to_string(turn));
    expect_done(monitor_.patch("/vm", R"({"state": "Paused"})"));
    expect_done(monitor_.put("/snapshot/create",
                             R"({"snapshot_path": ")" + name + R"(.state", "mem_file_path": ")" + name + ".mem\"}"));
    expect_done(monitor_.patch("/vm", R"({"state": "Resumed"})"));
  }

  ScratchDirectory scratch_;
  Monitor monitor_;
};

TEST_F(SlowClientTest, OneThatSendsByteByByteHoldsUpNeitherPausesNorSnapshots) {
  expect_done(monitor_.put("/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 32})"));
  monitor_.boot("spin");
  const OwnedFd slow = connect_unix(monitor_.socket_path());
  const std::string request = "PATCH /vm HTTP/1.1\r\nContent-Length: 20\r\n\r\n{\"state\": \"Resumed\"}";
  // Each turn is over while the slow request is still under way.
  for (std::size_t i = 0; i < request.size(); ++i) {
    ASSERT_EQ(::send(slow.get(), &request[i], 1, MSG_NOSIGNAL), 1);
    if (i % 16 == 1) pause_snapshot_resume(static_cast<int>(i));
  }
  std::string answer;
  read_until(slow.get(), answer, "\r\n\r\n");
  // On a host where the turns took longer than a request may, it was cut off.
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 204") || answer.starts_with("HTTP/1.1 408")) << answer;
  monitor_.signal(SIGTERM);
  EXPECT_EQ(monitor_.wait(), 143);
}

TEST_F(SlowClientTest, OnesThatReadNothingHoldUpNeitherPausesNorSnapshots) {
  expect_done(monitor_.put("/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 32})"));
  monitor_.boot("spin");
  std::vector<OwnedFd> greedy;
  for (int turn = 0; turn < 5; ++turn) {
    greedy.push_back(greedy_client(monitor_.socket_path()));
    pause_snapshot_resume(turn);
  }
  EXPECT_NE(monitor_.get("/").body.find("Running"), std::string::npos);
  monitor_.signal(SIGTERM);
  EXPECT_EQ(monitor_.wait(), 143);
}

}  // namespace
}  // namespace mayfly::testing
