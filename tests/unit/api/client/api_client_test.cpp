#include "api/client/api_client.h"

#include "api/server.h"
#include "api/unix_listener.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/api/fake_target.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

class Client : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = ApiServer::create({.socket_path = path_, .max_payload = 1000}, target_);
    ASSERT_TRUE(server && (*server)->start());
    server_ = std::move(*server);
  }
  testing::ScratchDirectory scratch_;
  std::string path_ = scratch_.file("api.sock");
  FakeTarget target_;
  std::unique_ptr<ApiServer> server_;
};

TEST_F(Client, SendsRequestsAndTakesAnswers) {
  ApiClient client{path_};
  EXPECT_EQ(client.send("PATCH", "/vm", R"({"state": "Paused"})"), "");
  ASSERT_EQ(target_.commands().size(), 1U);
  EXPECT_TRUE(std::holds_alternative<PauseVm>(target_.commands()[0]));
  const auto info = client.send("GET", "/");
  ASSERT_TRUE(info.has_value());
  EXPECT_NE(info->find("\"id\":\"fake\""), std::string::npos) << *info;
  EXPECT_EQ(client.send("GET", "/metrics/prometheus"), "mayfly_up 1\n");
}

TEST_F(Client, TellsARefusalInTheServersWords) {
  target_.refuse_with({ErrorKind::State, "not now"});
  const auto refused = ApiClient{path_}.send("PATCH", "/vm", R"({"state": "Paused"})");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "not now");
}

TEST_F(Client, SaysWhyNobodyIsThere) {
  const auto error = [](const std::string& path) { return ApiClient{path}.send("GET", "/").error().message; };
  EXPECT_EQ(error(scratch_.file("none")), "there is no socket " + scratch_.file("none"));
  const std::string file = testing::make_file(scratch_.file("file"), "");
  EXPECT_EQ(error(file), "nobody listens at " + file + ": its machine has ended");
  EXPECT_NE(error(std::string(200, 'x')).find("200 bytes"), std::string::npos);
}

TEST_F(Client, SaysWhichProcessListens) {
  const auto process = ApiClient{path_}.process();
  ASSERT_TRUE(process) << process.error().message;
  EXPECT_EQ(::syscall(SYS_pidfd_send_signal, process->get(), 0, nullptr, 0), 0);
  EXPECT_NE(testing::content_of("/proc/self/fdinfo/" + std::to_string(process->get()))
                .find("\nPid:\t" + std::to_string(::getpid()) + '\n'),
            std::string::npos);
  EXPECT_FALSE(ApiClient{scratch_.file("none")}.process());
}

/// Somebody who answers all with the same text.
std::string answered_with(const std::string& text) {
  const testing::ScratchDirectory scratch;
  const auto listener = UnixListener::create(scratch.file("sock")).value();
  std::jthread server{[&] {
    pollfd ready{.fd = listener.fd(), .events = POLLIN, .revents = 0};
    ::poll(&ready, 1, 60'000);
    const OwnedFd client{::accept(listener.fd(), nullptr, nullptr)};
    std::array<char, 4096> request{};
    EXPECT_GT(::recv(client.get(), request.data(), request.size(), 0), 0);
    EXPECT_EQ(::send(client.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }};
  const auto answer = ApiClient{scratch.file("sock")}.send("GET", "/x");
  return answer ? *answer : answer.error().message.substr(answer.error().message.rfind(':') + 2);
}

TEST(ApiClientAnswers, AreReadToTheirEnd) {
  EXPECT_EQ(answered_with("HTTP/1.1 200 OK\r\ncontent-LENGTH:  3\r\n\r\nabc"), "abc");
  EXPECT_EQ(answered_with("HTTP/1.1 200\r\nServer: x\r\n\r\nabc"), "abc");
  EXPECT_EQ(answered_with("HTTP/1.0 204 No Content\r\n\r\n"), "");
  EXPECT_EQ(answered_with("HTTP/1.1 400 Bad\r\nContent-Length: 4\r\n\r\nodd?"), "odd?");
  EXPECT_EQ(answered_with("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc"),
            "the connection ended before the answer did");
  EXPECT_EQ(answered_with("HTTP/1.1 200 OK\r\n"), "the connection ended before the answer did");
  EXPECT_EQ(answered_with("SSH-2.0\r\n\r\n"), "the answer is no HTTP");
}

TEST(TextMember, IsEmptyWhereThereIsNone) {
  EXPECT_EQ(text_member(R"({"a": 1, "b": "two"})", "b"), "two");
  EXPECT_EQ(text_member(R"({"a": 1, "b": "two"})", "a"), "");
  EXPECT_EQ(text_member(R"({"b": "two"})", "c"), "");
  EXPECT_EQ(text_member("[]", "a"), "");
  EXPECT_EQ(text_member("not JSON", "a"), "");
}

}  // namespace
}  // namespace mayfly
