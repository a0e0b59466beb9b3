#include "api/client/running.h"

#include "api/client/api_client.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "vmm/base/unix_listener.h"
#include "vmm/base/unix_socket.h"

#include <unistd.h>

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
  process(36, "/usr/bin/mayfly", {"mayfly", "snapshot", "create", "a", "--state", "s", "--memory", "m"});
  fs::create_directory(scratch_.file("self"));
  const auto machines = found();
  ASSERT_EQ(machines.size(), 4U);
  EXPECT_EQ(machines[0].pid, 4);
  EXPECT_EQ(machines[0].uid, ::getuid());
  EXPECT_EQ(machines[0].id, "b");
  EXPECT_EQ(machines[0].socket, "/srv/here/b.sock");
  EXPECT_EQ(machines[1].id, "a");
  EXPECT_EQ(machines[1].socket, "/run/a.sock");
  EXPECT_EQ(machines[2].id, "anonymous-instance");
  EXPECT_EQ(machines[2].socket, "");
  EXPECT_EQ(machines[3].id, "mayfly-run");
  EXPECT_EQ(machines[3].socket, "");
}

TEST_F(Running, SkipsTheChildThatHoldsAMachinesMemory) {
  for (const int pid : {7, 8}) process(pid, "/usr/bin/mayfly", {"mayfly", "--id", "a", "--api-sock", "/run/a.sock"});
  testing::make_file(scratch_.file("7/comm"), "mayfly\n");
  testing::make_file(scratch_.file("8/comm"), "memory-holder\n");
  const auto machine = find_machine("a", found());
  ASSERT_TRUE(machine) << machine.error().message;
  EXPECT_EQ(machine->pid, 7);
}

TEST_F(Running, FindsChildrenByTheirMarksAndListsThemBehindTheirParents) {
  for (const int pid : {2, 5, 7, 8, 9}) {
    process(pid, "/usr/bin/mayfly", {"mayfly", "--id", "root", "--api-sock", "/run/root.sock"});
    fs::create_directory(scratch_.file(std::to_string(pid) + "/fd"));
    fs::create_symlink("socket:[1]", scratch_.file(std::to_string(pid) + "/fd/0"));
  }
  const auto is_child = [this](int pid, const char* mark, int parent) {
    fs::create_symlink(mark, scratch_.file(std::to_string(pid) + "/fd/3"));
    testing::make_file(scratch_.file(std::to_string(pid) + "/stat"),
                       std::to_string(pid) + " (may) fly) S " + std::to_string(parent) + " 1 1 0");
  };
  is_child(2, "/memfd:mayfly-branch:grandchild:/run/a:b.sock (deleted)", 8);
  is_child(8, "/memfd:mayfly-branch:child:c.sock (deleted)", 7);
  is_child(9, "/memfd:mayfly-branch:no id:/run/x.sock (deleted)", 1);
  testing::make_file(scratch_.file("5/comm"), "brancher\n");  // it has no name yet
  const auto tree = as_tree(found());
  ASSERT_EQ(tree.size(), 4U);
  EXPECT_EQ(tree[0].first, 0U);
  EXPECT_EQ(tree[0].second.pid, 7);
  EXPECT_EQ(tree[1].first, 1U);
  EXPECT_EQ(tree[1].second.id, "child");
  EXPECT_EQ(tree[1].second.socket, "/srv/here/c.sock");
  EXPECT_EQ(tree[1].second.own_socket, "c.sock");
  EXPECT_EQ(tree[2].first, 2U);
  EXPECT_EQ(tree[2].second.id, "grandchild");
  EXPECT_EQ(tree[2].second.socket, "/run/a:b.sock");
  EXPECT_EQ(tree[3].second.id, "root") << "a mark that no machine has is none";
}

TEST_F(Running, FindsThoseOnTheDefaultSocket) {
  process(1, "/usr/bin/mayfly", {"mayfly"});
  process(2, "/usr/bin/mayfly", {"mayfly", "--id", "b", "--boot-timer"});
  process(3, "/usr/bin/mayfly", {"mayfly", "--config-file", "c.json"});
  process(4, "/usr/bin/mayfly", {"mayfly", "--no-api", "--api-sock", "/run/d.sock", "--config-file", "c.json"});
  process(5, "/usr/bin/mayfly", {"mayfly", "--version"});
  process(6, "/usr/bin/mayfly", {"mayfly", "--describe-snapshot", "state"});
  process(7, "/usr/bin/mayfly", {"mayfly", "--describe-snapshot=state"});
  process(8, "/usr/bin/mayfly", {"mayfly", "ps"});
  const auto machines = found();
  ASSERT_EQ(machines.size(), 4U);
  EXPECT_EQ(machines[0].id, "anonymous-instance");
  for (const std::size_t i : {0U, 1U, 2U}) EXPECT_EQ(machines[i].socket, "/run/mayfly.socket");
  EXPECT_EQ(machines[3].socket, "") << "--no-api wins";
}

TEST_F(Running, SkipsCommandLinesThatNoMachineHas) {
  process(1, "/usr/bin/mayfly", {"mayfly", "--id", "\x1B[2J"});
  process(2, "/usr/bin/mayfly", {"mayfly", "--id", std::string(65, 'x')});
  process(3, "/usr/bin/mayfly", {"mayfly", "--log-path", std::string(std::size_t{128} << 10, 'x')});
  std::vector<std::string> words(256, "--boot-timer");
  process(4, "/usr/bin/mayfly", words);
  words.emplace_back("--boot-timer");
  process(5, "/usr/bin/mayfly", words);
  ASSERT_EQ(found().size(), 1U);
  EXPECT_EQ(found()[0].pid, 4);
}

TEST_F(Running, ReachesAJailedOneThroughItsRoot) {
  fs::create_directory(scratch_.file("jail"));
  process(7, "/mayfly", {"mayfly", "--id", "jailed", "--api-sock", "/run/api.sock"}, scratch_.file("jail"));
  process(8, "/mayfly", {"mayfly", "--api-sock", "api.sock"}, scratch_.file("jail"));
  ASSERT_EQ(found().size(), 2U);
  EXPECT_EQ(found()[0].socket, scratch_.file("./7/root/run/api.sock"));
  EXPECT_EQ(found()[1].socket, scratch_.file("./8/cwd/api.sock"));
}

TEST_F(Running, ReachesOneInADirectoryWhosePathIsTooLongForASocket) {
  const std::string deep = scratch_.file(std::string(kLongestSocketPath, 'd'));
  fs::create_directory(deep);
  process(7, "/mayfly", {"mayfly", "--api-sock", "v.sock"});
  fs::remove(scratch_.file("7/cwd"));
  fs::create_symlink(deep, scratch_.file("7/cwd"));
  ASSERT_EQ(found().size(), 1U);
  EXPECT_EQ(found()[0].socket, scratch_.file("./7/cwd/v.sock"));
  const auto listener = UnixListener::create(scratch_.file("7/cwd/v.sock"));
  ASSERT_TRUE(listener) << listener.error().message;
  const auto client = ApiClient{found()[0].socket}.ask("/");
  EXPECT_TRUE(client) << client.error().message;
}

TEST_F(Running, ReachesOneWithMountsOfItsOwnThroughItsRoot) {
  process(7, "/mayfly", {"mayfly", "--api-sock", "/run/api.sock"});
  fs::remove(scratch_.file("7/ns/mnt"));
  fs::create_symlink("mnt:[1]", scratch_.file("7/ns/mnt"));
  ASSERT_EQ(found().size(), 1U);
  EXPECT_EQ(found()[0].socket, scratch_.file("./7/root/run/api.sock"));
}

TEST_F(Running, NoProcfsMeansNoMachines) { EXPECT_TRUE(running_machines(scratch_.file("none")).empty()); }

TEST(FindMachine, TakesThePathOfASocketOrAnIdOrAProcess) {
  const std::vector<RunningMachine> running = {{1, 0, "a", "/run/a"},
                                               {2, 0, "twice", "/run/b"},
                                               {3, 1000, "twice", "/run/c"},
                                               {4, 0, "deaf", ""},
                                               {5, 1000, "1", "/run/d"}};
  const auto error = [&](const std::string& name) {
    const auto machine = find_machine(name, running);
    return machine ? "" : machine.error().message;
  };
  const auto a = find_machine("a", running);
  ASSERT_TRUE(a);
  EXPECT_EQ(a->pid, 1) << "so that nobody else is spoken to";
  EXPECT_EQ(a->socket, "/run/a");
  EXPECT_EQ(find_machine("3", running).value().socket, "/run/c");
  EXPECT_EQ(find_machine("/some/where", running).value().socket, "/some/where");
  EXPECT_EQ(find_machine("/some/where", running).value().pid, 0);
  EXPECT_EQ(find_machine("./here", running).value().socket, "./here");
  EXPECT_EQ(error("b"), "no machine has the id b; these run: a twice twice deaf 1 (mayfly ps)");
  EXPECT_EQ(error("twice"),
            "2 machines are called twice: process 2 of user 0, process 3 of user 1000; give one's process, or its "
            "socket's path (mayfly ps)");
  EXPECT_EQ(error("1"),
            "2 machines are called 1: process 1 of user 0, process 5 of user 1000; give one's process, or its "
            "socket's path (mayfly ps)");
  EXPECT_EQ(error("deaf"), "machine deaf has no API: it was started with --no-api, or without --api-sock");
  EXPECT_EQ(find_machine("b", {}).error().message, "no machine has the id b; this user can see none (mayfly ps)");
}

}  // namespace
}  // namespace mayfly
