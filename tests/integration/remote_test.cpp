// The commands by which people reach machines in other processes, as they type them.

#include "tests/integration/kvm_required.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <unistd.h>

#include <csignal>
#include <filesystem>

namespace mayfly::testing {
namespace {

class RemoteTest : public KvmTest {
 protected:
  struct Said {
    int code = 0;
    std::string text;  ///< Output, then errors.
  };
  static Said mayfly(std::vector<std::string> words) {
    words.insert(words.begin(), monitor_binary());
    Pipe out;
    ChildProcess process{words, {.out = out.write.get(), .err = out.write.get()}};
    out.write.reset();
    Said said;
    read_until(out.read.get(), said.text, "");
    said.code = process.wait();
    return said;
  }
  [[nodiscard]] std::string state(Monitor& monitor) const { return monitor.get("/").body; }

  ScratchDirectory scratch_;
};

TEST_F(RemoteTest, AMachineIsListedPausedResumedAndLookedAt) {
  Monitor monitor{{"--id", "remote-one"}};
  monitor.boot("spin");
  const Said list = mayfly({"ps"});
  EXPECT_EQ(list.code, 0) << list.text;
  EXPECT_NE(list.text.find("remote-one"), std::string::npos) << list.text;
  EXPECT_NE(list.text.find(monitor.socket_path()), std::string::npos) << list.text;
  EXPECT_NE(list.text.find("Running"), std::string::npos) << list.text;
  for (const std::string& name : {std::string{"remote-one"}, monitor.socket_path()}) {
    EXPECT_EQ(mayfly({"pause", name}).code, 0);
    EXPECT_NE(state(monitor).find("Paused"), std::string::npos);
    EXPECT_EQ(mayfly({"resume", name}).code, 0);
    EXPECT_NE(state(monitor).find("Running"), std::string::npos);
  }
  const Said config = mayfly({"config", "remote-one"});
  EXPECT_NE(config.text.find("\"mem_size_mib\":128"), std::string::npos) << config.text;
  EXPECT_NE(mayfly({"metrics", "remote-one"}).text.find("# TYPE"), std::string::npos);
  const Said refused = mayfly({"stop", "remote-one"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.text.find("--now"), std::string::npos) << "it has no keyboard driver: " << refused.text;
  EXPECT_EQ(mayfly({"stop", "--now", "remote-one"}).code, 0);
  EXPECT_EQ(monitor.wait(), 143);
  EXPECT_NE(mayfly({"pause", "remote-one"}).text.find("no machine has the id remote-one"), std::string::npos);
}

TEST_F(RemoteTest, APausedMachineGoesOnSoThatItsGuestCanShutDown) {
  Monitor monitor{{"--id", "remote-six"}};
  monitor.boot("keyboard");
  monitor.console_until("listening");
  ASSERT_EQ(mayfly({"pause", "remote-six"}).code, 0);
  const Said stopped = mayfly({"stop", "remote-six"});
  EXPECT_EQ(stopped.code, 0) << stopped.text;
  EXPECT_EQ(monitor.wait(), 0);
}

TEST_F(RemoteTest, AnotherProcessDoesNotPassForAMachine) {
  Monitor monitor{{"--id", "remote-three"}};
  monitor.boot("spin");
  // Any user may call a program mayfly, and say that it has an id and a socket.
  const std::string impostor = scratch_.file("mayfly");
  std::filesystem::copy_file("/bin/sh", impostor);
  const Pipe in;
  const Pipe out;
  const ChildProcess process{
      {impostor, "-c", "echo ready; read line", "--id", "impostor", "--api-sock", monitor.socket_path()},
      {.in = in.read.get(), .out = out.write.get(), .err = -1}};
  std::string text;
  read_until(out.read.get(), text, "ready");
  const std::string pid = std::to_string(process.pid());
  for (const Said& said :
       {mayfly({"pause", "impostor"}), mayfly({"pause", pid}), mayfly({"stop", "--now", "impostor"})}) {
    EXPECT_EQ(said.code, 1);
    EXPECT_NE(said.text.find("is no socket of process " + pid), std::string::npos) << said.text;
  }
  EXPECT_NE(state(monitor).find("Running"), std::string::npos);
  EXPECT_NE(mayfly({"ps"}).text.find("unreachable"), std::string::npos);
  EXPECT_EQ(mayfly({"pause", std::to_string(monitor.process().pid())}).code, 0) << "a machine by its process";
  EXPECT_NE(state(monitor).find("Paused"), std::string::npos);
}

TEST_F(RemoteTest, ASuspendedMachineDoesNotHoldUpAStop) {
  Monitor monitor{{"--id", "remote-four"}};
  monitor.boot("spin");
  monitor.signal(SIGSTOP);
  const Said stopped = mayfly({"stop", "remote-four", "--timeout", "1"});
  monitor.signal(SIGCONT);
  EXPECT_EQ(stopped.code, 1);
  EXPECT_NE(stopped.text.find("no answer"), std::string::npos) << stopped.text;
}

TEST_F(RemoteTest, ASuspendedMachineDoesNotHoldUpATableOfAll) {
  Monitor monitor{{"--id", "remote-five"}};
  monitor.boot("spin");
  monitor.signal(SIGSTOP);
  const Said table = mayfly({"top", "--interval", "0.2"});
  monitor.signal(SIGCONT);
  EXPECT_EQ(table.code, 0) << table.text;
  EXPECT_TRUE(table.text.starts_with("ID ")) << "without a terminal it is printed once: " << table.text;
  EXPECT_EQ(table.text.find('\x1B'), std::string::npos) << "and plain";
  const std::size_t row = table.text.find("\nremote-five ");
  ASSERT_NE(row, std::string::npos) << table.text;
  const std::string line = table.text.substr(row + 1, table.text.find('\n', row + 1) - row - 1);
  EXPECT_NE(line.find(" no answer "), std::string::npos) << table.text;
}

TEST_F(RemoteTest, AMachineHasChildrenWhichAreListedBelowIt) {
  Monitor monitor{{"--id", "remote-root", "--branches"}};
  monitor.boot("spin");
  const Said made = mayfly({"branch", "remote-root", "--children", "2"});
  ASSERT_EQ(made.code, 0) << made.text;
  EXPECT_NE(made.text.find("remote-root-1 "), std::string::npos) << made.text;
  EXPECT_NE(made.text.find("remote-root-2 "), std::string::npos) << made.text;
  const Said below = mayfly({"branch", "remote-root-2", "--name", "remote-leaf"});
  ASSERT_EQ(below.code, 0) << below.text;
  const Said list = mayfly({"ps"});
  std::size_t last = 0;
  for (const char* const line :
       {"\nremote-root ", "\n  remote-root-1 ", "\n  remote-root-2 ", "\n    remote-leaf-1 "}) {
    const std::size_t at = list.text.find(line);
    ASSERT_NE(at, std::string::npos) << line << list.text;
    EXPECT_GE(at, last) << list.text;
    last = at;
    EXPECT_NE(list.text.substr(at + 1, list.text.find('\n', at + 1) - at).find("Running"), std::string::npos);
  }
  EXPECT_NE(mayfly({"branch", "remote-root", "--tap", "eth0=tap0"}).text.find("has no network interface eth0"),
            std::string::npos);
  const Said more = mayfly({"branch", "remote-root"});
  EXPECT_NE(more.text.find("remote-root-3 "), std::string::npos)
      << "numbers of those that run are left out: " << more.text;
  for (const char* const child : {"remote-leaf-1", "remote-root-1", "remote-root-2", "remote-root-3"})
    EXPECT_EQ(mayfly({"stop", "--now", child}).code, 0);
}

TEST_F(RemoteTest, ARestoredMachineGoesBack) {
  const std::string state_file = scratch_.file("back.state");
  const std::string memory = scratch_.file("back.memory");
  {
    Monitor monitor{{"--id", "remote-first"}};
    monitor.boot("survivor", "console=ttyS0");
    monitor.console_until("survivor ready");
    ASSERT_EQ(mayfly({"snapshot", "create", "remote-first", "--state", state_file, "--memory", memory}).code, 0);
    const Said refused = mayfly({"revert", "remote-first"});
    EXPECT_EQ(refused.code, 1);
    EXPECT_NE(refused.text.find("the machine was booted"), std::string::npos) << refused.text;
  }
  Monitor monitor{{"--id", "remote-back"}};
  ASSERT_EQ(monitor
                .put("/snapshot/load", R"({"snapshot_path": ")" + state_file + R"(", "mem_file_path": ")" + memory +
                                           R"(", "resume_vm": true, "revertible": true})")
                .status,
            204);
  EXPECT_EQ(mayfly({"revert", "remote-back", "--paused"}).text, "");
  EXPECT_NE(state(monitor).find("Paused"), std::string::npos);
  EXPECT_EQ(mayfly({"revert", "remote-back", "--clock-realtime"}).text, "");
  EXPECT_NE(state(monitor).find("Running"), std::string::npos);
  monitor.type("r");
  monitor.console_until("round 1 ok");
}

TEST_F(RemoteTest, ARunningMachineIsSnapshottedAndGoesOn) {
  Monitor monitor{{"--id", "remote-two"}};
  monitor.boot("survivor", "console=ttyS0");
  monitor.console_until("survivor ready");
  const std::string state_file = scratch_.file("state");
  const Said taken =
      mayfly({"snapshot", "create", "remote-two", "--state", state_file, "--memory", scratch_.file("memory")});
  EXPECT_EQ(taken.code, 0) << taken.text;
  EXPECT_NE(state(monitor).find("Running"), std::string::npos);
  const Said verified = mayfly({"snapshot", "verify", "--state", state_file, "--memory", scratch_.file("memory")});
  EXPECT_EQ(verified.code, 0) << verified.text;
  const Said refused = mayfly(
      {"snapshot", "create", "remote-two", "--state", scratch_.file("no/state"), "--memory", scratch_.file("memory")});
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(state(monitor).find("Running"), std::string::npos) << "it goes on whatever comes of it";
  monitor.type("r");
  monitor.console_until("round 1 ok");
  monitor.type("q");
  EXPECT_EQ(monitor.wait(), 0);
}

}  // namespace
}  // namespace mayfly::testing
