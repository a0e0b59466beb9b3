#include "api/client/running.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

namespace fs = std::filesystem;

/// A procfs of processes that are none.
class Running : public ::testing::Test {
 protected:
  void process(int pid, const std::string& binary, const std::vector<std::string>& words,
               const std::string& root = "/") const {
    const fs::path directory = scratch_.file(std::to_string(pid));
    fs::create_directory(directory);
    fs::create_symlink(binary, directory / "exe");
    fs::create_symlink("/srv/here", directory / "cwd");
    fs::create_symlink(root, directory / "root");
    fs::create_directory(directory / "ns");
    fs::create_symlink(fs::read_symlink("/proc/self/ns/mnt"), directory / "ns/mnt");
    std::string line;
    for (const std::string& word : words) line += word + '\0';
    testing::make_file((directory / "cmdline").string(), line);
  }
  [[nodiscard]] std::vector<RunningMachine> found() const { return running_machines(scratch_.file(".")); }

  testing::ScratchDirectory scratch_;
};

TEST_F(Running, FindsMachinesByTheirProcesses) {
  process(30, "/usr/bin/mayfly", {"mayfly", "--api-sock", "/run/a.sock", "--id", "a"});
  process(4, "/usr/bin/mayfly (deleted)", {"mayfly", "--api-sock=b.sock", "--id=b"});
  process(31, "/usr/bin/mayfly", {"mayfly", "--config-file", "c.json", "--no-api"});
  process(32, "/usr/bin/mayfly", {"mayfly", "run", "--kernel", "vmlinux"});
  process(33, "/usr/bin/mayfly", {"mayfly", "doctor"});
  process(34, "/usr/bin/mayflies", {"mayflies", "--api-sock", "/run/x.sock"});
  process(35, "/usr/bin/mayfly", {});
  fs::create_directory(scratch_.file("self"));
  const auto machines = found();
  ASSERT_EQ(machines.size(), 4U);
  EXPECT_EQ(machines[0].pid, 4);
  EXPECT_EQ(machines[0].id, "b");
  EXPECT_EQ(machines[0].socket, "/srv/here/b.sock");
  EXPECT_EQ(machines[1].id, "a");
  EXPECT_EQ(machines[1].socket, "/run/a.sock");
  EXPECT_EQ(machines[2].id, "anonymous-instance");
  EXPECT_EQ(machines[2].socket, "");
  EXPECT_EQ(machines[3].id, "mayfly-run");
}

TEST_F(Running, ReachesAJailedOneThroughItsRoot) {
  fs::create_directory(scratch_.file("jail"));
  process(7, "/mayfly", {"mayfly", "--id", "jailed", "--api-sock", "/run/api.sock"}, scratch_.file("jail"));
  process(8, "/mayfly", {"mayfly", "--api-sock", "api.sock"}, scratch_.file("jail"));
  ASSERT_EQ(found().size(), 2U);
  EXPECT_EQ(found()[0].socket, scratch_.file("./7/root/run/api.sock"));
  EXPECT_EQ(found()[1].socket, scratch_.file("./8/cwd/api.sock"));
}

TEST_F(Running, ReachesOneWithMountsOfItsOwnThroughItsRoot) {
  process(7, "/mayfly", {"mayfly", "--api-sock", "/run/api.sock"});
  fs::remove(scratch_.file("7/ns/mnt"));
  fs::create_symlink("mnt:[1]", scratch_.file("7/ns/mnt"));
  ASSERT_EQ(found().size(), 1U);
  EXPECT_EQ(found()[0].socket, scratch_.file("./7/root/run/api.sock"));
}

TEST_F(Running, NoProcfsMeansNoMachines) { EXPECT_TRUE(running_machines(scratch_.file("none")).empty()); }

TEST(SocketOf, IsThePathOrThatOfTheMachine) {
  const std::vector<RunningMachine> running = {
      {1, "a", "/run/a"}, {2, "twice", "/run/b"}, {3, "twice", "/run/c"}, {4, "deaf", ""}};
  const auto error = [&](const std::string& name) {
    const auto socket = socket_of(name, running);
    return socket ? "" : socket.error().message;
  };
  EXPECT_EQ(socket_of("a", running).value(), "/run/a");
  EXPECT_EQ(socket_of("/some/where", running).value(), "/some/where");
  EXPECT_EQ(socket_of("./here", running).value(), "./here");
  EXPECT_EQ(error("b"), "no machine has the id b; these run: a twice twice deaf (mayfly ps)");
  EXPECT_EQ(error("twice"), "2 machines have the id twice; give the path of one's socket (mayfly ps)");
  EXPECT_EQ(error("deaf"), "machine deaf has no API: it was started without --api-sock");
  EXPECT_EQ(socket_of("b", {}).error().message,
            "no machine has the id b; none that you may look at runs here (mayfly ps)");
}

}  // namespace
}  // namespace mayfly
