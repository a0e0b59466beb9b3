#include "jailer/cgroups.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly::jailer {
namespace {

namespace fs = std::filesystem;
using mayfly::testing::content_of;
using mayfly::testing::make_file;
using mayfly::testing::ScratchDirectory;

TEST(JailHierarchies, AreReadFromMountsAndFromWhereTheProcessIs) {
  const auto all = parse_hierarchies(
      "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
      "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
      "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
      "41 31 0:38 / /sys/fs/cgroup/my\\040tree rw,relatime - cgroup2 cgroup2 rw\n"
      "99 31 0:38 / /second/mount rw,relatime - cgroup2 cgroup2 rw\n",
      "2:cpu,cpuacct:/a:b\n1:name=systemd:/s\n0::/user.slice\n");
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].mount, "/sys/fs/cgroup/cpu,cpuacct");
  EXPECT_EQ(all[0].version, 1);
  EXPECT_EQ(all[0].controllers, (std::vector<std::string>{"rw", "cpu", "cpuacct"}));
  EXPECT_EQ(all[0].home, "/a:b");
  EXPECT_EQ(all[1].home, "/s");
  EXPECT_EQ(all[2].mount, "/sys/fs/cgroup/my tree");
  EXPECT_EQ(all[2].version, 2);
  EXPECT_EQ(all[2].home, "/user.slice");
}

TEST(JailHierarchies, MayBeginAtAContainersCgroup) {
  const auto home = [](const std::string& root, const std::string& path) {
    const auto all = parse_hierarchies("41 31 0:38 " + root + " /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n",
                                       "0::" + path + "\n");
    return all.empty() ? "none" : all.front().home;
  };
  EXPECT_EQ(home("/", "/"), "/");
  EXPECT_EQ(home("/docker/a", "/docker/a"), "/");
  EXPECT_EQ(home("/docker/a", "/docker/a/service"), "/service");
  EXPECT_EQ(home("/docker/a", "/docker/ab"), "");
  EXPECT_EQ(home("/docker/a", "/user.slice"), "");
  EXPECT_EQ(home("/..", "/"), "");
}

TEST(JailHierarchies, OfLinesThatAreCutShortAreNone) {
  EXPECT_TRUE(parse_hierarchies("", "").empty());
  EXPECT_TRUE(parse_hierarchies("1 2 3\n41 31 0:38 / /x rw - cgroup2\n- cgroup2 x rw\n\n", "0:\n::\n:\n").empty());
}

/// A tree of files like the kernel's; but what the kernel would put into a new cgroup must be there before.
class JailCgroups : public ::testing::Test {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return scratch_.file(name); }
  void group(const std::string& name, const std::vector<std::string>& files) {
    fs::create_directories(path(name));
    for (const std::string& file : files) make_file(path(name) + "/" + file, "");
  }
  Result<Cgroups> make(const CgroupArguments& arguments) {
    return Cgroups::make(hierarchies_, arguments, "mayfly", "vm", undo_);
  }
  std::string refusal(const CgroupArguments& arguments) {
    const auto made = make(arguments);
    return made ? "" : made.error().message;
  }
  static bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

  ScratchDirectory scratch_;
  Undo undo_;
  std::vector<Hierarchy> hierarchies_ = {
      {.mount = scratch_.file("unified"), .version = 2, .controllers = {}, .root = "/", .home = "/"},
      {.mount = scratch_.file("cpuset"), .version = 1, .controllers = {"rw", "cpuset"}, .root = "/", .home = "/"},
      {.mount = scratch_.file("cpu"), .version = 1, .controllers = {"rw", "cpu", "cpuacct"}, .root = "/", .home = "/"}};
};

TEST_F(JailCgroups, OfVersion2HaveTheirControllersSwitchedOnFromTheTop) {
  group("unified", {"cgroup.procs", "cgroup.subtree_control"});
  make_file(path("unified/cgroup.controllers"), "cpu memory pids\n");
  group("unified/vms", {"cgroup.subtree_control"});
  group("unified/vms/vm", {"cgroup.procs", "cpu.max", "memory.max", "cgroup.max.depth"});
  const auto made = make({.version = 2,
                          .settings = {{"cpu.max", "50000 100000"}, {"memory.max", "1G"}, {"cgroup.max.depth", "0"}},
                          .parent = "vms"});
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(content_of(path("unified/cgroup.subtree_control")), "+cpu +memory");
  EXPECT_EQ(content_of(path("unified/vms/cgroup.subtree_control")), "+cpu +memory");
  EXPECT_EQ(content_of(path("unified/vms/vm/cpu.max")), "50000 100000");
  EXPECT_EQ(content_of(path("unified/vms/vm/memory.max")), "1G");
  EXPECT_EQ(content_of(path("unified/vms/vm/cgroup.max.depth")), "0");
}

TEST_F(JailCgroups, OfVersion2WithoutSettingsAreTheParentItself) {
  group("unified", {"cgroup.procs"});
  group("unified/vms", {"cgroup.procs"});
  auto made = make({.version = 2, .settings = {}, .parent = "vms"});
  ASSERT_TRUE(made) << made.error().message;
  ASSERT_TRUE(made->attach(undo_));
  EXPECT_EQ(content_of(path("unified/vms/cgroup.procs")), "0");
  EXPECT_TRUE(has(refusal({.version = 2, .settings = {}, .parent = "none"}), "--parent-cgroup none"));
}

TEST_F(JailCgroups, OfVersion1AreOneInEachHierarchy) {
  group("cpu", {"cgroup.procs"});
  group("cpuset", {"cgroup.procs"});
  group("cpu/mayfly/vm", {"cgroup.procs", "cpu.shares", "cpuacct.usage"});
  group("cpuset/mayfly/vm", {"cgroup.procs", "cpuset.mems"});
  make_file(path("cpuset/cpuset.cpus"), "0-7\n");
  make_file(path("cpuset/cpuset.mems"), "0-1\n");
  make_file(path("cpuset/mayfly/cpuset.cpus"), "0-3\n");
  make_file(path("cpuset/mayfly/cpuset.mems"), "\n");
  make_file(path("cpuset/mayfly/vm/cpuset.cpus"), "\n");
  auto made = make({.version = 1,
                    .settings = {{"cpu.shares", "512"}, {"cpuset.cpus", "2"}, {"cpuacct.usage", "0"}},
                    .parent = std::nullopt});
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(content_of(path("cpu/mayfly/vm/cpu.shares")), "512");
  EXPECT_EQ(content_of(path("cpu/mayfly/vm/cpuacct.usage")), "0");
  EXPECT_EQ(content_of(path("cpuset/mayfly/cpuset.cpus")), "0-3\n") << "what was there stays";
  EXPECT_EQ(content_of(path("cpuset/mayfly/cpuset.mems")), "0-1") << "what was empty is inherited";
  EXPECT_EQ(content_of(path("cpuset/mayfly/vm/cpuset.cpus")), "2");
  EXPECT_EQ(content_of(path("cpuset/mayfly/vm/cpuset.mems")), "0-1");
  ASSERT_TRUE(made->attach(undo_));
  EXPECT_EQ(content_of(path("cpu/mayfly/vm/cgroup.procs")), "0");
  EXPECT_EQ(content_of(path("cpuset/mayfly/vm/cgroup.procs")), "0");
}

TEST_F(JailCgroups, ThatCannotBeSaySoAndNameWhatThereIs) {
  group("unified", {"cgroup.subtree_control"});
  make_file(path("unified/cgroup.controllers"), "pids\n");
  group("cpu/mayfly/vm", {});
  const auto refused = [&](int version, const std::string& file) {
    return refusal({.version = version, .settings = {{file, "1"}}, .parent = std::nullopt});
  };
  EXPECT_TRUE(has(refused(2, "memory.max"), "no such controller; it has: pids"));
  EXPECT_TRUE(has(refused(1, "memory.limit_in_bytes"), "no hierarchy of version 1 with this controller"));
  EXPECT_TRUE(has(refused(1, "cpu.none"), "--cgroup cpu.none=1: there is no file cpu.none"));
  hierarchies_.erase(hierarchies_.begin());
  EXPECT_TRUE(has(refused(2, "pids.max"), "no cgroup2 file system is mounted"));
}

TEST_F(JailCgroups, OfAnotherMachineAreNotShared) {
  group("cpu/mayfly/vm", {"cpu.shares"});
  make_file(path("cpu/mayfly/vm/cgroup.procs"), "4711\n4712\n");
  EXPECT_TRUE(has(refusal({.version = 1, .settings = {{"cpu.shares", "1"}}, .parent = std::nullopt}),
                  "has processes already (4711)"));
}

TEST_F(JailCgroups, ThatWereMadeAreTakenBackButNotWhatMachinesShare) {
  fs::create_directories(path("cpu"));
  EXPECT_FALSE(make({.version = 1, .settings = {{"cpu.shares", "1"}}, .parent = std::nullopt}));
  EXPECT_TRUE(fs::exists(path("cpu/mayfly/vm")));
  undo_.run();
  EXPECT_FALSE(fs::exists(path("cpu/mayfly/vm")));
  EXPECT_TRUE(fs::exists(path("cpu/mayfly")));
}

TEST_F(JailCgroups, AreRemovedWhereverTheyAre) {
  fs::create_directories(path("cpu/mayfly/vm"));
  fs::create_directories(path("unified/mayfly/vm"));
  fs::create_directories(path("unified/mayfly/other"));
  ASSERT_TRUE(remove_cgroups(hierarchies_, "mayfly", "vm", [](const std::string&) { return true; }));
  EXPECT_FALSE(fs::exists(path("cpu/mayfly/vm")));
  EXPECT_FALSE(fs::exists(path("unified/mayfly/vm")));
  EXPECT_TRUE(fs::exists(path("unified/mayfly/other")));
}

TEST_F(JailCgroups, StayWhereAllTheirProcessesAreForeign) {
  group("cpu/mayfly/vm", {});
  make_file(path("cpu/mayfly/vm/cgroup.procs"), "4711\n4712\n");
  fs::create_directories(path("unified/mayfly/vm"));
  const auto remove = [&](const std::vector<std::string>& foreign) {
    return remove_cgroups(hierarchies_, "mayfly", "vm", [&](const std::string& process) {
      return std::ranges::find(foreign, process) != foreign.end();
    });
  };
  EXPECT_FALSE(remove({"4711"}));
  EXPECT_TRUE(remove({"4711", "4712"}));
  EXPECT_TRUE(fs::exists(path("cpu/mayfly/vm")));
  EXPECT_FALSE(fs::exists(path("unified/mayfly/vm")));
}

TEST_F(JailCgroups, AreMadeAnewWhereAnEarlierMachineLeftThem) {
  fs::create_directories(path("cpu/mayfly/vm"));
  struct stat before{}, after{};
  ASSERT_EQ(::stat(path("cpu/mayfly/vm").c_str(), &before), 0);
  const OwnedFd held{::open(path("cpu/mayfly/vm").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};  // keeps its number
  EXPECT_FALSE(make({.version = 1, .settings = {{"cpu.shares", "1"}}, .parent = std::nullopt})) << "it has no files";
  ASSERT_EQ(::stat(path("cpu/mayfly/vm").c_str(), &after), 0);
  EXPECT_NE(before.st_ino, after.st_ino);
  undo_.run();
  EXPECT_FALSE(fs::exists(path("cpu/mayfly/vm")));
}

TEST_F(JailCgroups, AreNotEnteredWithoutAWayBack) {
  group("cpu/mayfly/vm", {"cgroup.procs", "cpu.shares"});
  const CgroupArguments arguments{.version = 1, .settings = {{"cpu.shares", "512"}}, .parent = std::nullopt};
  EXPECT_TRUE(has(refusal(arguments), "cannot open the cgroup of mayfly-jailer itself, /")) << "no cgroup.procs";
  make_file(path("cpu/cgroup.procs"), "");
  EXPECT_EQ(refusal(arguments), "");
  hierarchies_.back().home = "";
  EXPECT_TRUE(has(refusal(arguments), "which is not mounted"));
}

}  // namespace
}  // namespace mayfly::jailer
