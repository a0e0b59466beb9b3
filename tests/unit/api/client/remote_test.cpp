#include "api/client/remote.h"

#include "tests/support/child_process.h"
#include "vmm/base/unix_listener.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace mayfly {
namespace {

std::string http(int status, const std::string& body) {
  return fmt::format("HTTP/1.1 {} X\r\nContent-Length: {}\r\n\r\n{}", status, body.size(), body);
}

/// A monitor that gives one answer a connection, in this order; where one is empty, the connection ends without.
class ScriptedMonitor {
 public:
  explicit ScriptedMonitor(std::vector<std::string> answers)
      : listener_(UnixListener::create(scratch_.file("sock")).value()), server_([this, answers = std::move(answers)] {
          for (const std::string& answer : answers) serve(answer);
        }) {}
  [[nodiscard]] std::string path() const { return listener_.path(); }
  /// All that came, once each answer was given.
  const std::vector<std::string>& requests() {
    if (server_.joinable()) server_.join();
    return requests_;
  }

 private:
  void serve(const std::string& answer) {
    pollfd ready{.fd = listener_.fd(), .events = POLLIN, .revents = 0};
    if (::poll(&ready, 1, 10'000) != 1) return;
    const OwnedFd client{::accept(listener_.fd(), nullptr, nullptr)};
    std::array<char, 4096> request{};
    const ssize_t count = ::recv(client.get(), request.data(), request.size(), 0);
    if (count > 0) requests_.emplace_back(request.data(), static_cast<std::size_t>(count));
    EXPECT_EQ(::send(client.get(), answer.data(), answer.size(), MSG_NOSIGNAL), static_cast<ssize_t>(answer.size()));
  }

  testing::ScratchDirectory scratch_;
  UnixListener listener_;
  std::vector<std::string> requests_;
  std::jthread server_;
};

const std::string kRunning = http(200, R"({"state": "Running"})");

TEST(RemoteSnapshotTest, LetsAMachineGoOnWhosePauseWasNotAnswered) {
  ScriptedMonitor monitor{{kRunning, "", http(204, "")}};
  const Status taken = snapshot_machine({.machine = monitor.path(), .state = "/s", .memory = "/m"});
  ASSERT_FALSE(taken);
  EXPECT_NE(taken.error().message.find("the connection ended before the answer did"), std::string::npos);
  ASSERT_EQ(monitor.requests().size(), 3U);
  EXPECT_NE(monitor.requests()[1].find("Paused"), std::string::npos);
  EXPECT_NE(monitor.requests()[2].find("Resumed"), std::string::npos);
}

TEST(RemoteSnapshotTest, SaysThatAMachineMayStandStillWhereNothingIsAnswered) {
  ScriptedMonitor monitor{{kRunning, "", ""}};
  const Status taken = snapshot_machine({.machine = monitor.path(), .state = "/s", .memory = "/m"});
  ASSERT_FALSE(taken);
  EXPECT_NE(taken.error().message.find("if it is paused, mayfly resume resumes it"), std::string::npos)
      << taken.error().message;
}

TEST(RemoteSnapshotTest, AsksNothingMoreOfAMachineThatRefusesToPause) {
  ScriptedMonitor monitor{{kRunning, http(400, R"({"fault_message": "not now"})")}};
  const Status taken = snapshot_machine({.machine = monitor.path(), .state = "/s", .memory = "/m"});
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().message, "not now");
  EXPECT_EQ(monitor.requests().size(), 2U);
}

TEST(RemoteSnapshotTest, RefusesPathsThatTheApiCannotCarryBeforeItAsks) {
  const std::string latin1 = "/snap-\xE4";
  const auto refusal_of = [](RemoteSnapshot snapshot) {
    const testing::ScratchDirectory scratch;
    const auto listener = UnixListener::create(scratch.file("sock")).value();
    snapshot.machine = listener.path();
    const Status taken = snapshot_machine(snapshot);
    pollfd asked{.fd = listener.fd(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&asked, 1, 0), 0);
    return taken ? "" : taken.error().message;
  };
  const std::string why = ": the API takes paths in UTF-8 alone; give another path";
  EXPECT_EQ(refusal_of({.machine = {}, .state = latin1, .memory = "/m"}), "--state " + latin1 + why);
  EXPECT_EQ(refusal_of({.machine = {}, .state = "/s", .memory = latin1}), "--memory " + latin1 + why);
  EXPECT_EQ(refusal_of({.machine = {}, .state = "/s", .memory = "/m", .frozen = {{"root", latin1}}}),
            "--freeze root " + latin1 + why);
  EXPECT_EQ(refusal_of({.machine = {}, .state = latin1, .memory = "/m", .live = true}), "--state " + latin1 + why);
  EXPECT_EQ(refusal_of({.machine = {}, .state = "", .memory = "/m"}), "--state must be the path of a file");
}

TEST(RemoteSnapshotTest, RefusesARelativePathWhereItsDirectoryIsGone) {
  const testing::ScratchDirectory scratch;
  const OwnedFd before{::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)};
  const std::string gone = scratch.file("gone");
  ASSERT_EQ(::mkdir(gone.c_str(), 0700), 0);
  ASSERT_EQ(::chdir(gone.c_str()), 0);
  ASSERT_EQ(::rmdir(gone.c_str()), 0);
  const Status taken = snapshot_machine({.machine = "/nowhere", .state = "s", .memory = "/m"});
  ASSERT_EQ(::fchdir(before.get()), 0);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().message,
            "--state s: the working directory has no path (No such file or directory (ENOENT)); give an absolute path");
}

TEST(RemoteBranchTest, RefusesASocketBesideWhichTheApiCannotNameOthers) {
  const testing::ScratchDirectory scratch;
  const auto listener = UnixListener::create(scratch.file("sock-\xE4")).value();
  const Status branched = branch_machine({.machine = listener.path()}, stdout);
  ASSERT_FALSE(branched);
  EXPECT_EQ(
      branched.error().message,
      listener.path() +
          ": children's sockets are beside it, and the API takes paths in UTF-8 alone; start the machine elsewhere");
  pollfd asked{.fd = listener.fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&asked, 1, 0), 0);
}

TEST(RemoteStopTest, WaitsForTheAnswerNoLongerThanItIsTold) {
  const testing::ScratchDirectory scratch;
  const auto listener = UnixListener::create(scratch.file("sock")).value();  // and nobody who accepts
  const Status stopped = stop_machine({.machine = listener.path(), .timeout_s = 1});
  ASSERT_FALSE(stopped);
  EXPECT_NE(stopped.error().message.find("no answer; it is stopped, or busy"), std::string::npos)
      << stopped.error().message;
}

/// What print_config() writes to `fd`, which it closes, for a configuration of these bytes.
void print_config_to(OwnedFd fd, const std::string& config) {
  const ScriptedMonitor monitor{{http(200, config)}};
  std::FILE* const out = ::fdopen(fd.release(), "w");
  ASSERT_NE(out, nullptr);
  EXPECT_TRUE(print_config(monitor.path(), out));
  EXPECT_EQ(std::fclose(out), 0);
}

TEST(RemoteConfigTest, ComesAsItIs) {
  testing::Pipe pipe;
  const std::string config{"{\x1B]0;x\x07\0}", 9};
  print_config_to(std::move(pipe.write), config);
  std::string text;
  testing::read_until(pipe.read.get(), text, "");
  EXPECT_EQ(text, config + '\n');
}

TEST(RemoteConfigTest, IsNotObeyedByATerminal) {
  const OwnedFd terminal{::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)};
  std::array<char, 64> name{};
  if (!terminal || ::grantpt(terminal.get()) != 0 || ::unlockpt(terminal.get()) != 0 ||
      ::ptsname_r(terminal.get(), name.data(), name.size()) != 0)
    GTEST_SKIP() << "no terminal is to be had here";
  const OwnedFd kept{::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC)};  // what is written stays readable
  OwnedFd out{::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC)};
  ASSERT_TRUE(kept && out);
  print_config_to(std::move(out), "{\x1B]0;x\x07\n}");
  std::string text;
  testing::read_until(terminal.get(), text, "}");
  EXPECT_EQ(text.substr(0, text.find('}')), "{?]0;x?\r\n");
}

}  // namespace
}  // namespace mayfly
