#include "api/server.h"

#include "tests/support/no_more_threads.h"
#include "tests/unit/api/fake_target.h"
#include "tests/unit/api/unix_client.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::string_view kGetVersion = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";
constexpr std::string_view kVersionEnd = "\"mayfly_version\":\"" MAYFLY_VERSION "\"}";
constexpr milliseconds kNever{60'000};

std::string put(std::string_view path, std::string_view body) {
  return fmt::format("PUT {} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{}", path, body.size(), body);
}

class ServerTest : public ::testing::Test {
 protected:
  void start(milliseconds deadline = kNever, std::size_t max_connections = 32) {
    auto server = ApiServer::create(
        {.socket_path = path_, .max_payload = 1000, .request_deadline = deadline, .max_connections = max_connections},
        target_);
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
    const auto started = server_->start();
    ASSERT_TRUE(started) << started.error().message;
  }

  /// A connected client; a failed test where it is not.
  UnixClient client() {
    UnixClient made{path_};
    EXPECT_TRUE(made.connected());
    return made;
  }

  void expect_served(UnixClient& by) {
    EXPECT_TRUE(by.send(kGetVersion));
    EXPECT_TRUE(by.receive_until(kVersionEnd).starts_with("HTTP/1.1 200 OK\r\n"));
  }

  TestDirectory directory_;
  std::string path_ = directory_.file("api.sock");
  FakeTarget target_;
  std::unique_ptr<ApiServer> server_;
};

TEST_F(ServerTest, AnswersARequestOverTheSocket) {
  start();
  UnixClient one = client();
  ASSERT_TRUE(one.send(put("/boot-source", R"({"kernel_image_path": "/k"})")));
  EXPECT_EQ(one.receive_until("\r\n\r\n"), "HTTP/1.1 204 No Content\r\nServer: Mayfly\r\n\r\n");
  ASSERT_EQ(target_.commands().size(), 1U);
  EXPECT_EQ(std::get<PutBootSource>(target_.commands()[0]).value.kernel_image_path, "/k");
}

TEST_F(ServerTest, AConnectionIsKeptForLaterRequests) {
  start();
  UnixClient one = client();
  for (int i = 0; i < 100; ++i) expect_served(one);
}

TEST_F(ServerTest, AnswersPipelinedRequestsInOrder) {
  start();
  UnixClient one = client();
  ASSERT_TRUE(
      one.send(put("/logger", "{}") + std::string{kGetVersion} + "GET / HTTP/1.1\r\nConnection: close\r\n\r\n"));
  const std::string all = one.receive_all();
  const std::size_t logger = all.find("204");
  const std::size_t version = all.find("firecracker_version");
  const std::size_t info = all.find("app_name");
  EXPECT_NE(logger, std::string::npos) << all;
  EXPECT_LT(logger, version);
  EXPECT_LT(version, info);
  EXPECT_NE(info, std::string::npos);
}

TEST_F(ServerTest, WhoConnectsBeforeTheStartIsServedAfterIt) {
  auto server = ApiServer::create({.socket_path = path_}, target_);
  ASSERT_TRUE(server);
  UnixClient early = client();
  ASSERT_TRUE(early.send(kGetVersion));
  ASSERT_TRUE((*server)->start());
  EXPECT_NE(early.receive_until(kVersionEnd), "");
}

TEST_F(ServerTest, WithoutThreadsTheErrorSaysSo) {
  auto server = ApiServer::create({.socket_path = path_}, target_);
  ASSERT_TRUE(server);
  const testing::NoMoreThreads none;
  const auto started = (*server)->start();
  ASSERT_FALSE(started);
  EXPECT_NE(started.error().message.find("cannot start the API's thread"), std::string::npos);
  server->reset();
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(ServerTest, RefusesWhatIsNotThereAndStaysConnected) {
  start();
  UnixClient one = client();
  ASSERT_TRUE(one.send("DELETE /vm HTTP/1.1\r\n\r\n"));
  const std::string gone = one.receive_until("\"}");
  EXPECT_TRUE(gone.starts_with("HTTP/1.1 400 Bad Request\r\n")) << gone;
  EXPECT_TRUE(gone.ends_with(R"({"fault_message":"DELETE /vm: the API has no such method here; /vm takes PATCH"})"));
  ASSERT_TRUE(one.send("BREW /pot HTTP/1.1\r\n\r\n"));
  EXPECT_TRUE(one.receive_until("\"}").starts_with("HTTP/1.1 400 Bad Request\r\n"));
  expect_served(one);
}

TEST_F(ServerTest, RefusesMalformedHttpAndHangsUp) {
  start();
  for (const std::string_view bytes : {"\x16\x03\x01 TLS, perhaps\r\n\r\n", "GET / HTTP/1.1\nHost: x\n\n",
                                       "PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n"}) {
    UnixClient one = client();
    ASSERT_TRUE(one.send(bytes));
    one.end_input();
    const std::string reply = one.receive_all();
    EXPECT_TRUE(reply.starts_with("HTTP/1.1 400 Bad Request\r\n")) << bytes << reply;
    EXPECT_NE(reply.find("fault_message"), std::string::npos);
  }
  UnixClient next = client();
  expect_served(next);
  EXPECT_TRUE(target_.commands().empty());
}

TEST_F(ServerTest, TellsAClientThatItsRequestWasCutOff) {
  start();
  UnixClient one = client();
  ASSERT_TRUE(one.send("PUT /boot-source HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"kernel"));
  one.end_input();
  const std::string reply = one.receive_all();
  EXPECT_TRUE(reply.starts_with("HTTP/1.1 400 Bad Request\r\n")) << reply;
  EXPECT_NE(reply.find("the connection ended in the middle of the request"), std::string::npos);
  EXPECT_TRUE(target_.commands().empty());
}

TEST_F(ServerTest, AnswersAClientThatHasEndedItsInput) {
  start();
  UnixClient one = client();
  ASSERT_TRUE(one.send(kGetVersion));
  one.end_input();
  EXPECT_TRUE(one.receive_all().ends_with(kVersionEnd));
}

TEST_F(ServerTest, SurvivesAClientThatHangsUpAnywhere) {
  start();
  const std::string request = put("/boot-source", R"({"kernel_image_path": "/k"})");
  for (std::size_t length = 0; length <= request.size(); ++length) {
    UnixClient one = client();
    ASSERT_TRUE(one.send(request.substr(0, length)));
    one.hang_up();
  }
  UnixClient next = client();
  expect_served(next);
}

/// As a process does that was forked from this one, until it has closed what it inherited.
TEST_F(ServerTest, ForgetsAConnectionThatAnotherProcessHasOpenStill) {
  start();
  auto gone = std::make_unique<UnixClient>(path_);
  expect_served(*gone);
  std::vector<OwnedFd> copies;
  for (const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) {
    const int fd = std::stoi(entry.path().filename());
    sockaddr_un own{};
    socklen_t length = sizeof own;
    int listens = 0;
    socklen_t size = sizeof listens;
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) == 0 && own.sun_path == path_ &&
        ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens == 0)
      copies.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  }
  ASSERT_EQ(copies.size(), 1U) << "the server's end of the connection";
  ASSERT_TRUE(gone->send("GET /version HTTP/1.1\r\nConnection: close\r\n\r\n"));
  EXPECT_NE(gone->receive_until(kVersionEnd), "");
  UnixClient other = client();
  expect_served(other);  // so the first connection is closed
  gone.reset();
  for (int i = 0; i < 10; ++i) expect_served(other);
}

TEST_F(ServerTest, RefusesABodyOverTheLimitWhileItIsStillSent) {
  start();
  for (const std::string_view framing : {"Content-Length: 100000", "Transfer-Encoding: chunked"}) {
    UnixClient one = client();
    ASSERT_TRUE(one.send(fmt::format("PUT /boot-source HTTP/1.1\r\n{}\r\n\r\n186A0\r\n", framing)));
    one.send(std::string(100'000, 'x'));  // may fail where the server is quick
    one.end_input();
    const std::string reply = one.receive_all();
    EXPECT_TRUE(reply.starts_with("HTTP/1.1 413 Payload Too Large\r\n")) << reply;
    EXPECT_NE(reply.find(R"({"fault_message":"the body is larger than 1000 bytes)"), std::string::npos) << reply;
  }
  UnixClient next = client();
  ASSERT_TRUE(next.send(put("/logger", "{" + std::string(998, ' ') + "}")));
  EXPECT_TRUE(next.receive_until("\r\n\r\n").starts_with("HTTP/1.1 204"));
}

TEST_F(ServerTest, TellsAClientThatWaitsToContinue) {
  start();
  UnixClient one = client();
  ASSERT_TRUE(one.send("PUT /logger HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
  EXPECT_EQ(one.receive_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  ASSERT_TRUE(one.send("{}"));
  EXPECT_TRUE(one.receive_until("\r\n\r\n").starts_with("HTTP/1.1 204"));

  UnixClient large = client();
  ASSERT_TRUE(large.send("PUT /logger HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n\r\n"));
  EXPECT_TRUE(large.receive_until("\"}").starts_with("HTTP/1.1 413"));
}

TEST_F(ServerTest, ServesOthersWhileSomeAreStalled) {
  start();
  UnixClient silent = client();
  UnixClient in_the_head = client();
  UnixClient in_the_body = client();
  UnixClient idle = client();
  expect_served(idle);
  ASSERT_TRUE(in_the_head.send("GET /version HT"));
  ASSERT_TRUE(in_the_body.send("PUT /logger HTTP/1.1\r\nContent-Length: 2\r\n\r\n{"));
  UnixClient first = client();
  UnixClient second = client();
  UnixClient third = client();
  for (int i = 0; i < 10; ++i) {
    for (UnixClient* each : {&first, &second, &third}) expect_served(*each);
  }
  ASSERT_TRUE(in_the_head.send("TP/1.1\r\n\r\n"));
  EXPECT_NE(in_the_head.receive_until(kVersionEnd), "");
  ASSERT_TRUE(in_the_body.send("}"));
  EXPECT_TRUE(in_the_body.receive_until("\r\n\r\n").starts_with("HTTP/1.1 204"));
  expect_served(silent);
}

TEST_F(ServerTest, AClientThatDoesNotReadBlocksNobody) {
  start();
  UnixClient greedy = client();
  const int small = 4096;
  ASSERT_EQ(::setsockopt(greedy.fd(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
  // Far more answers than the socket holds; sending stops where the server stops reading.
  std::size_t sent = 0;
  for (int i = 0; i < 100'000; ++i) {
    const ssize_t length = ::send(greedy.fd(), kGetVersion.data(), kGetVersion.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (length != static_cast<ssize_t>(kGetVersion.size())) break;
    ++sent;
    if (i % 1000 == 0) {
      UnixClient other = client();
      expect_served(other);
    }
  }
  UnixClient other = client();
  expect_served(other);
  // And all that it asked in whole is answered once it reads.
  for (std::size_t i = 0; i < sent; ++i) ASSERT_NE(greedy.receive_until(kVersionEnd), "");
}

TEST_F(ServerTest, ASlowRequestIsCutOffHoweverItTrickles) {
  start(milliseconds{50});
  UnixClient slow = client();
  ASSERT_TRUE(slow.send("GET /version HTTP/1.1\r\n"));
  pollfd readable{.fd = slow.fd(), .events = POLLIN, .revents = 0};
  while (slow.send("X: y\r\n") && ::poll(&readable, 1, 5) == 0) {
  }
  const std::string reply = slow.receive_all();
  EXPECT_TRUE(reply.starts_with("HTTP/1.1 408 Request Timeout\r\n")) << reply;
  EXPECT_NE(reply.find("the request did not arrive within 50 ms"), std::string::npos);
  UnixClient next = client();
  expect_served(next);
}

TEST_F(ServerTest, AnIdleConnectionHasNoDeadline) {
  start(milliseconds{1});
  UnixClient idle = client();
  expect_served(idle);
  UnixClient slow = client();
  ASSERT_TRUE(slow.send("G"));
  EXPECT_NE(slow.receive_all(), "");  // so the deadline has passed for both
  expect_served(idle);
}

TEST_F(ServerTest, ANewcomerReplacesWhoIsIdleLongest) {
  start(kNever, 2);
  UnixClient oldest = client();
  UnixClient busy = client();
  expect_served(oldest);
  expect_served(busy);
  ASSERT_TRUE(busy.send("GET /ver"));
  UnixClient newcomer = client();
  expect_served(newcomer);
  EXPECT_EQ(oldest.receive_all(), "");
  ASSERT_TRUE(busy.send("sion HTTP/1.1\r\n\r\n"));
  EXPECT_NE(busy.receive_until(kVersionEnd), "");
}

TEST_F(ServerTest, ANewcomerWaitsWhereAllAreBusy) {
  start(kNever, 2);
  UnixClient first = client();
  UnixClient second = client();
  expect_served(first);
  expect_served(second);
  ASSERT_TRUE(first.send("GET /ver"));
  ASSERT_TRUE(second.send("GET /ver"));
  UnixClient newcomer = client();
  ASSERT_TRUE(newcomer.send(kGetVersion));
  second.hang_up();
  EXPECT_NE(newcomer.receive_until(kVersionEnd), "");
  ASSERT_TRUE(first.send("sion HTTP/1.1\r\n\r\n"));
  EXPECT_NE(first.receive_until(kVersionEnd), "");
}

TEST_F(ServerTest, StopsAtOnceWithClientsConnectedAndRemovesItsFile) {
  start();
  UnixClient idle = client();
  UnixClient busy = client();
  expect_served(idle);
  ASSERT_TRUE(busy.send("GET /ver"));
  server_->stop();
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_EQ(idle.receive_all(), "");
  EXPECT_FALSE(UnixClient{path_}.connected());
  server_->stop();
}

TEST_F(ServerTest, StopsWithoutHavingStarted) {
  {
    auto server = ApiServer::create({.socket_path = path_}, target_);
    ASSERT_TRUE(server);
    EXPECT_TRUE(std::filesystem::exists(path_));
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(ServerTest, APathInUseIsAnErrorAndLeavesTheServerThere) {
  start();
  const auto second = ApiServer::create({.socket_path = path_}, target_);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find("another process is listening"), std::string::npos) << second.error().message;
  UnixClient one = client();
  expect_served(one);
}

}  // namespace
}  // namespace mayfly
