#include "api/server.h"
#include "tests/unit/api/unix_client.h"
#include "vmm/machine/machine_state.h"

#include <sys/eventfd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

/// A machine that holds commands until a test releases them, and answers reads at once.
class HoldingTarget : public CommandTarget {
 public:
  ~HoldingTarget() override { drop_all(); }
  void submit(Command command, Reply reply) override {
    if (is_read(command) && !holds_reads_) return std::move(reply).give(InstanceInfo{.id = "holding"});
    const std::lock_guard lock{mutex_};
    held_.push_back(std::move(reply));
    changed_.notify_all();
  }
  void hold_reads(bool hold) { holds_reads_ = hold; }
  void answered() override {
    const std::lock_guard lock{mutex_};
    ++answered_;
    changed_.notify_all();
  }

  /// False where they do not come.
  [[nodiscard]] bool wait_for_held(std::size_t count) {
    std::unique_lock lock{mutex_};
    return changed_.wait_for(lock, kPatience, [&] { return held_.size() >= count; });
  }
  [[nodiscard]] bool wait_for_answered() {
    std::unique_lock lock{mutex_};
    return changed_.wait_for(lock, kPatience, [&] { return answered_ > 0; });
  }
  [[nodiscard]] std::size_t answered_count() {
    const std::lock_guard lock{mutex_};
    return answered_;
  }
  [[nodiscard]] std::size_t held_count() {
    const std::lock_guard lock{mutex_};
    return held_.size();
  }
  /// Answers the command that came first, on this thread.
  void release() {
    std::unique_lock lock{mutex_};
    Reply reply = std::move(held_.front());
    held_.pop_front();
    lock.unlock();
    std::move(reply).give(std::monostate{});
  }
  void drop_all() {
    std::deque<Reply> dropped;
    const std::lock_guard lock{mutex_};
    dropped.swap(held_);
  }

 private:
  static constexpr std::chrono::seconds kPatience{10};

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Reply> held_;
  std::size_t answered_ = 0;
  std::atomic<bool> holds_reads_ = false;
};

constexpr std::string_view kAskVersion = "GET /version HTTP/1.1\r\n\r\n";
constexpr std::string_view kEndOfVersion = "\"mayfly_version\":\"" MAYFLY_VERSION "\"}";
constexpr std::string_view kGetInfo = "GET / HTTP/1.1\r\n\r\n";
const std::string kStart = "PUT /actions HTTP/1.1\r\nContent-Length: 32\r\n\r\n{\"action_type\": \"InstanceStart\"}";

class WaitingClientsTest : public ::testing::Test {
 protected:
  void start_holding(const ApiServerOptions& options) {
    auto server = ApiServer::create(options, holding_);
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
    ASSERT_TRUE(server_->start());
  }
  void TearDown() override {
    holding_.drop_all();
    server_.reset();
  }
  /// A connected client; a failed test where it is not.
  UnixClient client() {
    UnixClient made{path_};
    EXPECT_TRUE(made.connected());
    return made;
  }
  static void expect_info(UnixClient& by) {
    EXPECT_TRUE(by.send(kGetInfo));
    EXPECT_TRUE(by.receive_until("\"Mayfly\"}").starts_with("HTTP/1.1 200 OK\r\n"));
  }
  static void expect_done(UnixClient& by) {
    EXPECT_TRUE(by.receive_until("\r\n\r\n").starts_with("HTTP/1.1 204 No Content\r\n"));
  }

  TestDirectory directory_;
  std::string path_ = directory_.file("api.sock");
  HoldingTarget holding_;
  std::unique_ptr<ApiServer> server_;
};

TEST_F(WaitingClientsTest, OthersAreAnsweredWhileOneCommandTakesItsTime) {
  start_holding({.socket_path = path_, .request_deadline = milliseconds{1}});
  UnixClient waiting = client();
  ASSERT_TRUE(waiting.send(kStart));
  ASSERT_TRUE(holding_.wait_for_held(1));
  UnixClient other = client();
  for (int i = 0; i < 100; ++i) expect_info(other);
  UnixClient late = client();
  ASSERT_TRUE(late.send("G"));
  EXPECT_NE(late.receive_all().find(" 408 "), std::string::npos);  // and who waits for the machine is not late
  holding_.release();
  expect_done(waiting);
  expect_info(waiting);
}

TEST_F(WaitingClientsTest, AReadThatAMachineLeavesUnansweredIsRefused) {
  constexpr std::string_view kRefused = "HTTP/1.1 503 ";
  start_holding({.socket_path = path_, .read_deadline = milliseconds{50}, .max_connections = 2});
  holding_.hold_reads(true);
  UnixClient first = client();
  UnixClient second = client();
  for (UnixClient* each : {&first, &second}) ASSERT_TRUE(each->send(kGetInfo));
  ASSERT_TRUE(holding_.wait_for_held(2));
  for (UnixClient* each : {&first, &second}) {
    const std::string refused = each->receive_all();
    EXPECT_TRUE(refused.starts_with(kRefused)) << refused;
    EXPECT_NE(refused.find("has not answered for 50 ms"), std::string::npos) << refused;
  }
  // From then on nobody waits, and nothing is begun; what takes no machine is answered.
  UnixClient later = client();
  for (const std::string_view request : {kGetInfo, std::string_view{kStart}}) {
    ASSERT_TRUE(later.send(request));
    EXPECT_TRUE(later.receive_until("\"}").starts_with(kRefused));
  }
  ASSERT_TRUE(later.send(kAskVersion));
  EXPECT_NE(later.receive_until(kEndOfVersion), "");
  EXPECT_EQ(holding_.held_count(), 2U);
  // The machine goes on: so do its clients.
  holding_.hold_reads(false);
  holding_.release();
  holding_.release();
  std::string answer;
  for (const auto until = steady_clock::now() + std::chrono::seconds{10};
       !answer.starts_with("HTTP/1.1 200 ") && steady_clock::now() < until;) {
    ASSERT_TRUE(later.send(kGetInfo));
    answer = later.receive_until("\"}");
  }
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 ")) << answer;
}

TEST_F(WaitingClientsTest, MetricsThatAreCountedForLongStopNobody) {
  start_holding({.socket_path = path_, .read_deadline = milliseconds{50}});
  holding_.hold_reads(true);
  UnixClient metrics = client();
  ASSERT_TRUE(metrics.send("GET /metrics/prometheus HTTP/1.1\r\n\r\n"));
  ASSERT_TRUE(holding_.wait_for_held(1));
  UnixClient silent = client();
  ASSERT_TRUE(silent.send(kGetInfo));
  ASSERT_TRUE(holding_.wait_for_held(2));
  EXPECT_NE(silent.receive_all().find(" 503 "), std::string::npos);  // the time in which metrics were not refused
  holding_.release();
  expect_done(metrics);
}

TEST_F(WaitingClientsTest, MetricsThatNeverComeAreRefusedToo) {
  start_holding({.socket_path = path_, .metrics_deadline = milliseconds{50}});
  holding_.hold_reads(true);
  UnixClient metrics = client();
  ASSERT_TRUE(metrics.send("GET /metrics/prometheus HTTP/1.1\r\n\r\n"));
  EXPECT_NE(metrics.receive_all().find("has not answered for 50 ms"), std::string::npos);
}

TEST_F(WaitingClientsTest, ACommandThatTakesItsTimeIsNoRead) {
  start_holding({.socket_path = path_, .read_deadline = milliseconds{1}});
  UnixClient waiting = client();
  ASSERT_TRUE(waiting.send(kStart));
  ASSERT_TRUE(holding_.wait_for_held(1));
  UnixClient late = client();
  holding_.hold_reads(true);
  ASSERT_TRUE(late.send(kGetInfo));
  EXPECT_NE(late.receive_all().find(" 503 "), std::string::npos);
  holding_.release();
  expect_done(waiting);
}

TEST_F(WaitingClientsTest, TheMachineHearsOfAnswersOnceNoneIsOutstanding) {
  start_holding({.socket_path = path_});
  UnixClient waiting = client();
  ASSERT_TRUE(waiting.send(kStart));
  ASSERT_TRUE(holding_.wait_for_held(1));
  UnixClient other = client();
  expect_info(other);
  expect_info(other);
  EXPECT_EQ(holding_.answered_count(), 0U);
  holding_.release();
  expect_done(waiting);
  EXPECT_TRUE(holding_.wait_for_answered());
}

TEST_F(WaitingClientsTest, AClientMayHangUpWhileItWaits) {
  start_holding({.socket_path = path_, .max_connections = 2});
  for (int i = 0; i < 10; ++i) {
    UnixClient waiting = client();
    ASSERT_TRUE(waiting.send(kStart + kStart));
    ASSERT_TRUE(holding_.wait_for_held(1));
    waiting.hang_up();
    UnixClient other = client();
    expect_info(other);
    holding_.release();
    expect_info(other);
  }
  EXPECT_EQ(holding_.held_count(), 0U);
}

TEST_F(WaitingClientsTest, WhoHasEndedItsInputIsAnsweredAllTheSame) {
  start_holding({.socket_path = path_});
  UnixClient waiting = client();
  ASSERT_TRUE(waiting.send(kStart));
  waiting.end_input();
  ASSERT_TRUE(holding_.wait_for_held(1));
  UnixClient other = client();
  expect_info(other);
  holding_.release();
  EXPECT_TRUE(waiting.receive_all().starts_with("HTTP/1.1 204"));
}

TEST_F(WaitingClientsTest, PipelinedRequestsOfOneClientAreBegunOneByOne) {
  start_holding({.socket_path = path_});
  UnixClient waiting = client();
  ASSERT_TRUE(waiting.send(kStart + std::string{kGetInfo} + kStart));
  ASSERT_TRUE(holding_.wait_for_held(1));
  ASSERT_TRUE(waiting.send(kAskVersion));  // while it waits
  UnixClient other = client();
  expect_info(other);
  EXPECT_EQ(holding_.held_count(), 1U);
  holding_.release();
  expect_done(waiting);
  EXPECT_NE(waiting.receive_until("\"Mayfly\"}"), "");
  ASSERT_TRUE(holding_.wait_for_held(1));
  holding_.release();
  expect_done(waiting);
  EXPECT_NE(waiting.receive_until(kEndOfVersion), "");
}

TEST_F(WaitingClientsTest, AllConnectionsMayWait) {
  constexpr std::size_t kAll = 32;
  start_holding({.socket_path = path_, .max_connections = kAll});
  std::vector<UnixClient> clients;
  for (std::size_t i = 0; i < kAll; ++i) {
    clients.push_back(client());
    ASSERT_TRUE(clients.back().send(kStart));
    ASSERT_TRUE(holding_.wait_for_held(i + 1));
  }
  UnixClient newcomer = client();  // waits for room: who waits for an answer is not closed as idle
  ASSERT_TRUE(newcomer.send(kGetInfo));
  for (std::size_t i = 0; i < kAll; ++i) holding_.release();
  for (UnixClient& each : clients) expect_done(each);
  EXPECT_NE(newcomer.receive_until("\"Mayfly\"}"), "");
}

TEST_F(WaitingClientsTest, AStopWaitsForTheAnswersAndBeginsNothingMore) {
  start_holding({.socket_path = path_});
  UnixClient first = client();
  UnixClient second = client();
  UnixClient idle = client();
  expect_info(idle);
  ASSERT_TRUE(first.send(kStart + kStart));
  ASSERT_TRUE(second.send(kStart));
  ASSERT_TRUE(holding_.wait_for_held(2));
  auto stopped = std::async(std::launch::async, [&] { server_->stop(); });
  EXPECT_EQ(idle.receive_all(), "");  // so the stop has begun
  ASSERT_TRUE(second.send(kStart));
  holding_.release();
  EXPECT_EQ(stopped.wait_for(milliseconds{0}), std::future_status::timeout);
  holding_.drop_all();
  stopped.wait();
  const std::string one = first.receive_all();
  const std::string other = second.receive_all();
  const std::string both = one + other;
  EXPECT_NE(both.find("HTTP/1.1 204 No Content\r\n"), std::string::npos) << both;
  EXPECT_NE(both.find(R"({"fault_message":"the machine has ended"})"), std::string::npos) << both;
  EXPECT_EQ(holding_.held_count(), 0U);
}

/// Descriptors that a server watches, and what it has called.
class WatchTest : public WaitingClientsTest {
 protected:
  void SetUp() override {
    event_ = OwnedFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    ASSERT_TRUE(event_);
  }
  void start_watching(std::vector<int> waits) {
    waits_ = std::move(waits);
    start_holding({.socket_path = path_, .watched_fds = {event_.get()}, .watch = [this] {
                     const std::lock_guard lock{mutex_};
                     calls_.push_back(steady_clock::now());
                     changed_.notify_all();
                     return calls_.size() <= waits_.size() ? waits_[calls_.size() - 1] : -1;
                   }});
  }
  void make_readable() { ::eventfd_write(event_.get(), 1); }
  [[nodiscard]] bool wait_for_calls(std::size_t count) {
    std::unique_lock lock{mutex_};
    return changed_.wait_for(lock, std::chrono::seconds{10}, [&] { return calls_.size() >= count; });
  }
  [[nodiscard]] std::vector<steady_clock::time_point> calls() {
    const std::lock_guard lock{mutex_};
    return calls_;
  }

  OwnedFd event_;
  std::vector<int> waits_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<steady_clock::time_point> calls_;
};

TEST_F(WatchTest, IsCalledOnceEachTimeADescriptorBecomesReadable) {
  start_watching({});
  UnixClient other = client();
  expect_info(other);
  EXPECT_TRUE(calls().empty());
  make_readable();
  ASSERT_TRUE(wait_for_calls(1));
  for (int i = 0; i < 10; ++i) expect_info(other);  // it stays readable
  EXPECT_EQ(calls().size(), 1U);
  make_readable();
  EXPECT_TRUE(wait_for_calls(2));
}

TEST_F(WatchTest, IsCalledAgainWhenItsTimeHasCome) {
  start_watching({20, 1, 0});
  make_readable();
  ASSERT_TRUE(wait_for_calls(4));
  EXPECT_GE(calls()[1] - calls()[0], milliseconds{20});
  UnixClient other = client();
  expect_info(other);
  EXPECT_EQ(calls().size(), 4U);
}

TEST_F(WatchTest, IsCalledInTimeWhateverClientsDo) {
  start_watching({30});
  UnixClient waiting = client();
  ASSERT_TRUE(waiting.send(kStart + kStart));
  ASSERT_TRUE(holding_.wait_for_held(1));
  UnixClient greedy = client();
  UnixClient other = client();
  make_readable();
  const auto end = steady_clock::now() + std::chrono::seconds{10};
  while (calls().size() < 2 && steady_clock::now() < end) {
    expect_info(other);
    // Asks and does not read.
    (void)::send(greedy.fd(), kAskVersion.data(), kAskVersion.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  ASSERT_EQ(calls().size(), 2U);
  EXPECT_GE(calls()[1] - calls()[0], milliseconds{30});
}

TEST_F(WatchTest, IsCalledWhileAStopWaitsForAnswers) {
  start_watching({10});
  UnixClient waiting = client();
  UnixClient idle = client();
  expect_info(idle);
  ASSERT_TRUE(waiting.send(kStart));
  ASSERT_TRUE(holding_.wait_for_held(1));
  auto stopped = std::async(std::launch::async, [&] { server_->stop(); });
  EXPECT_EQ(idle.receive_all(), "");
  make_readable();
  EXPECT_TRUE(wait_for_calls(2));
  holding_.release();
  stopped.wait();
}

}  // namespace
}  // namespace mayfly
