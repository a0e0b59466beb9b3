#include "api/client/api_client.h"

#include "api/server.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/api/fake_target.h"
#include "vmm/base/process_fd.h"
#include "vmm/base/unix_listener.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <functional>
#include <string_view>
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

TEST_F(Client, ShowsARefusalWithoutWhatATerminalObeys) {
  const auto message = [&](const std::string& sentence) {
    target_.refuse_with({ErrorKind::State, sentence});
    return ApiClient{path_}.send("PATCH", "/vm", R"({"state": "Paused"})").error().message;
  };
  EXPECT_EQ(message("not\x1B[2J now"), "not?[2J now");
  EXPECT_EQ(message(std::string(2000, 'x')), std::string(1000, 'x') + "...");
  EXPECT_EQ(ApiClient{scratch_.file("\x1B[2J")}.send("GET", "/").error().message,
            "there is no socket " + scratch_.file("?[2J"));
}

TEST_F(Client, SpeaksToNobodyButTheProcessThatIsMeant) {
  EXPECT_TRUE((ApiClient{path_, {.process = ::getpid()}}.process()));
  EXPECT_EQ((ApiClient{path_, {.process = ::getpid()}}.send("PATCH", "/vm", R"({"state": "Paused"})")), "");
  const ApiClient mistaken{path_, {.process = ::getpid() + 1}};
  const auto refused = mistaken.send("PATCH", "/vm", R"({"state": "Resumed"})");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, path_ + " is no socket of process " + std::to_string(::getpid() + 1) +
                                         ": process " + std::to_string(::getpid()) + " listens there");
  EXPECT_FALSE(mistaken.process());
  EXPECT_EQ(target_.commands().size(), 1U);
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
  EXPECT_TRUE(signal_process(*process, 0));
  EXPECT_NE(testing::content_of("/proc/self/fdinfo/" + std::to_string(process->get()))
                .find("\nPid:\t" + std::to_string(::getpid()) + '\n'),
            std::string::npos);
  EXPECT_FALSE(ApiClient{scratch_.file("none")}.process());
}

/// Somebody who does with a request's connection, once the request is there, what he is told.
class Somebody {
 public:
  explicit Somebody(std::function<void(int)> answer)
      : listener_(UnixListener::create(scratch_.file("sock")).value()), server_([this, answer = std::move(answer)] {
          pollfd ready{.fd = listener_.fd(), .events = POLLIN, .revents = 0};
          ::poll(&ready, 1, 60'000);
          const OwnedFd client{::accept(listener_.fd(), nullptr, nullptr)};
          std::array<char, 4096> request{};
          EXPECT_GT(::recv(client.get(), request.data(), request.size(), 0), 0);
          answer(client.get());
        }) {}
  [[nodiscard]] std::string path() const { return listener_.path(); }

 private:
  testing::ScratchDirectory scratch_;
  UnixListener listener_;
  std::jthread server_;
};

/// What is at the end of the error's sentence, where there is one.
std::string outcome_of(const Result<std::string>& answer) {
  return answer ? *answer : answer.error().message.substr(answer.error().message.rfind(':') + 2);
}

/// Of somebody who answers with this text.
std::string answered_with(const std::string& text) {
  const Somebody somebody{[&](int client) {
    EXPECT_EQ(::send(client, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }};
  return outcome_of(ApiClient{somebody.path()}.send("GET", "/x"));
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

TEST(ApiClientAnswers, AreBoundedAndFitForATerminal) {
  EXPECT_EQ(answered_with(std::string(70'000, 'x')), "the answer's head has over 65536 bytes");
  EXPECT_EQ(answered_with("HTTP/1.1 200 OK\r\nContent-Length: 16777217\r\n\r\n"), "the answer has over 16777216 bytes");
  EXPECT_EQ(answered_with("HTTP/1.1 400 Bad\r\nContent-Length: 4\r\n\r\n\x1B[2J"), "?[2J");
}

TEST(ApiClientAnswers, MayComeInPieces) {
  const Somebody somebody{[](int client) {
    for (const char byte : std::string_view{"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\na\r\n\r\nbc"})
      EXPECT_EQ(::send(client, &byte, 1, MSG_NOSIGNAL), 1);
  }};
  EXPECT_EQ(outcome_of(ApiClient{somebody.path()}.send("GET", "/x")), "a\r\n\r\nbc");
}

TEST(ApiClientAnswers, ThatTrickleEndAtTheDeadline) {
  const Somebody somebody{[](int client) {
    const std::string_view head = "HTTP/1.1 200 OK\r\n\r\n";
    EXPECT_EQ(::send(client, head.data(), head.size(), MSG_NOSIGNAL), static_cast<ssize_t>(head.size()));
    pollfd hung_up{.fd = client, .events = POLLIN, .revents = 0};
    for (int i = 0; i < 30'000 && ::poll(&hung_up, 1, 1) == 0; ++i) ::send(client, "x", 1, MSG_NOSIGNAL);
  }};
  const ApiClient client{somebody.path(), {.patience = std::chrono::milliseconds{300}}};
  EXPECT_EQ(outcome_of(client.send("GET", "/x")), "no answer; it is stopped, or busy");
}

TEST(ApiClientAnswers, AreWaitedForThroughSignals) {
  struct sigaction interrupt{};
  interrupt.sa_handler = [](int) {};  // without SA_RESTART
  struct sigaction before{};
  ASSERT_EQ(::sigaction(SIGUSR1, &interrupt, &before), 0);
  {
    const Somebody somebody{[waiting = ::pthread_self()](int client) {
      for (const char byte : std::string_view{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"}) {
        EXPECT_EQ(::pthread_kill(waiting, SIGUSR1), 0);
        EXPECT_EQ(::send(client, &byte, 1, MSG_NOSIGNAL), 1);
      }
    }};
    EXPECT_EQ(outcome_of(ApiClient{somebody.path()}.send("GET", "/x")), "abc");
  }
  EXPECT_EQ(::sigaction(SIGUSR1, &before, nullptr), 0);
}

}  // namespace
}  // namespace mayfly
