// What the jailer refuses, takes back and cleans up. What it executes here is a static program that crashes at once: a
// bare-metal guest.

#include "tests/integration/jail.h"

#include <sys/file.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <memory>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

constexpr int kCrashed = 256 + SIGSEGV;

class JailerTest : public JailTest {
 protected:
  [[nodiscard]] static std::string program() { return guest_path("hello"); }
  [[nodiscard]] std::vector<std::string> jail(const std::string& id, const std::vector<std::string>& more = {}) const {
    return JailTest::jail(id, program(), more);
  }
  [[nodiscard]] std::string folder(const std::string& id) const { return JailTest::folder("hello", id); }
  [[nodiscard]] Outcome clean_up(const std::string& id, const std::vector<std::string>& more = {}) const {
    return JailTest::clean_up(id, program(), more);
  }

  /// The jail is refused, the reason is said, and nothing of it is there.
  void expect_refused(const std::vector<std::string>& arguments, const std::string& reason,
                      const std::vector<std::string>& launcher = {}) const {
    const Outcome outcome = run(arguments, launcher);
    EXPECT_EQ(outcome.code, 1) << outcome.said;
    EXPECT_NE(outcome.said.find(reason), std::string::npos) << outcome.said;
    EXPECT_FALSE(fs::exists(folder("vm")));
    const auto cgroup = find_cgroup();
    EXPECT_FALSE(cgroup && fs::exists(cgroup->parent + "/vm"));
  }
  void expect_refused_flags(const std::vector<std::string>& more, const std::string& reason) const {
    expect_refused(jail("vm", more), reason);
  }
  /// A jail with another base directory.
  [[nodiscard]] std::vector<std::string> jail_in(const std::string& other_base) const {
    std::vector<std::string> arguments = jail("vm");
    arguments.back() = other_base;
    return arguments;
  }
  void remount(unsigned long flags) const {
    ASSERT_EQ(::mount(nullptr, base().c_str(), nullptr, MS_REMOUNT | MS_BIND | flags, nullptr), 0);
  }
};

TEST_F(JailerTest, ExecutesTheProgramInTheJailAndLeavesItBehind) {
  const Outcome outcome = run(jail("vm"));
  EXPECT_EQ(outcome.code, kCrashed) << outcome.said;
  EXPECT_EQ(content_of(folder("vm") + "/root/hello"), content_of(program()));
  EXPECT_TRUE(fs::is_character_file(folder("vm") + "/root/dev/urandom"));
  struct stat root{};
  ASSERT_EQ(::stat((folder("vm") + "/root").c_str(), &root), 0);
  EXPECT_EQ(root.st_uid, kJailUid);
  EXPECT_EQ(root.st_gid, kJailGid);
  EXPECT_EQ(root.st_mode & 07777, 0700u);
}

TEST_F(JailerTest, WritesTheProcessIdWhereTheJailsUserCannot) {
  EXPECT_EQ(run(jail("vm")).code, kCrashed);
  struct stat directory{}, file{};
  ASSERT_EQ(::lstat(folder("vm").c_str(), &directory), 0);
  ASSERT_EQ(::lstat((folder("vm") + "/hello.pid").c_str(), &file), 0);
  EXPECT_EQ(directory.st_uid, 0U);
  EXPECT_EQ(directory.st_mode & 07777, 0755u);
  EXPECT_EQ(file.st_uid, 0U);
  EXPECT_EQ(file.st_mode & 07777, 0644u);
  EXPECT_TRUE(S_ISREG(file.st_mode));
  EXPECT_EQ(content_of(folder("vm") + "/hello.pid"), content_of(folder("vm") + "/root/hello.pid"))
      << "clients of the dialect look there";
  EXPECT_EQ(clean_up("vm").code, 0);
  EXPECT_FALSE(fs::exists(folder("vm")));
}

TEST_F(JailerTest, IsNotKeptFromAnIdByTheProcessIdOfAJailThatIsGone) {
  EXPECT_EQ(run(jail("vm")).code, kCrashed);
  fs::remove_all(folder("vm") + "/root");
  make_file(folder("vm") + "/hello.pid", "1");
  EXPECT_EQ(run(jail("vm")).code, kCrashed);
  EXPECT_NE(content_of(folder("vm") + "/hello.pid"), "1");
}

TEST_F(JailerTest, GivesUserFaultsOnlyWhereTheyAreAskedFor) {
  if (!fs::is_character_file("/dev/userfaultfd")) GTEST_SKIP() << "this host has no /dev/userfaultfd";
  EXPECT_EQ(run(jail("without")).code, kCrashed);
  EXPECT_TRUE(fs::exists(folder("without") + "/root/dev/urandom"));
  EXPECT_FALSE(fs::exists(folder("without") + "/root/dev/userfaultfd"));
  EXPECT_EQ(run(jail("with", {"--allow-userfaultfd"})).code, kCrashed);
  EXPECT_TRUE(fs::is_character_file(folder("with") + "/root/dev/userfaultfd"));
}

TEST_F(JailerTest, GivesAnIdToOneMachineUntilItIsCleanedUp) {
  EXPECT_EQ(run(jail("vm")).code, kCrashed);
  const Outcome second = run(jail("vm"));
  EXPECT_EQ(second.code, 1);
  EXPECT_NE(second.said.find("there is such a jail already"), std::string::npos) << second.said;
  EXPECT_TRUE(fs::exists(folder("vm") + "/root/hello")) << "the first one's stays";
  EXPECT_EQ(clean_up("vm").code, 0);
  EXPECT_FALSE(fs::exists(folder("vm")));
  EXPECT_EQ(run(jail("vm")).code, kCrashed);
}

TEST_F(JailerTest, KeepsTheProcessIdOfAMonitorThatHasRemovedItsProgram) {
  ASSERT_EQ(run(jail("vm")).code, kCrashed);
  const std::string number = content_of(folder("vm") + "/hello.pid");
  fs::remove(folder("vm") + "/root/hello");  // which the monitor may, as its root directory is its own
  const Outcome second = run(jail("vm"));
  EXPECT_EQ(second.code, 1);
  EXPECT_NE(second.said.find("there is such a jail already"), std::string::npos) << second.said;
  ASSERT_TRUE(fs::exists(folder("vm") + "/hello.pid"));
  EXPECT_EQ(content_of(folder("vm") + "/hello.pid"), number);
  EXPECT_EQ(clean_up("vm").code, 0);
  EXPECT_FALSE(fs::exists(folder("vm")));
}

TEST_F(JailerTest, OfManyAtOnceWithOneIdMakesOneJail) {
  std::vector<Pipe> errors(8);
  std::vector<std::unique_ptr<ChildProcess>> all;
  for (const Pipe& error : errors) {
    std::vector<std::string> arguments = jail("vm");
    arguments.insert(arguments.begin(), jailer_binary());
    all.push_back(std::make_unique<ChildProcess>(arguments,
                                                 ChildProcess::Streams{.in = -1, .out = -1, .err = error.write.get()}));
  }
  std::size_t made = 0;
  for (const auto& each : all) {
    const int code = each->wait();
    EXPECT_TRUE(code == kCrashed || code == 1) << code;
    made += code == kCrashed ? 1 : 0;
  }
  EXPECT_EQ(made, 1u);
  EXPECT_TRUE(fs::exists(folder("vm") + "/root/hello.pid"));
}

TEST_F(JailerTest, RefusesProgramsThatCouldNotRunInAJail) {
  make_file(file("script"), "#!/bin/sh\n");
  fs::permissions(file("script"), fs::perms::all);
  expect_refused(JailTest::jail("vm", file("script")), "is a script");
  expect_refused(JailTest::jail("vm", "/proc/self/exe/"), "cannot be opened");
  expect_refused(JailTest::jail("vm", "/bin/true"), "is dynamically linked");
  expect_refused(JailTest::jail("vm", "/dev/null"), "is not a regular file");
  expect_refused(JailTest::jail("vm", file("none")), "cannot be opened");
}

TEST_F(JailerTest, RefusesBasesThatItCannotTrustOrUse) {
  expect_refused(jail_in(file("none")), "there is no directory");
  expect_refused(jail_in("base"), "must be an absolute path");
  fs::create_directory_symlink(base(), file("link"));
  expect_refused(jail_in(file("link")), "is a symbolic link");
  remount(MS_NOEXEC);
  expect_refused(jail("vm"), "mounted noexec");
  remount(MS_NODEV);
  expect_refused(jail("vm"), "mounted nodev");
  remount(0);
  fs::permissions(base(), fs::perms::all);
  expect_refused(jail("vm"), "can be written to by others");
}

TEST_F(JailerTest, RefusesLinksThatArePlantedOnTheWay) {
  fs::create_directory(file("outside"));
  fs::create_directory_symlink(file("outside"), base() + "/hello");
  expect_refused(jail("vm"), "/hello is a symbolic link");
  fs::remove(base() + "/hello");
  fs::create_directories(folder("a"));
  fs::create_directory_symlink(file("outside"), folder("a") + "/root");
  EXPECT_NE(run(jail("a")).said.find("/root is a symbolic link"), std::string::npos);
  fs::create_directories(folder("b") + "/root");
  fs::create_directory_symlink(file("outside"), folder("b") + "/root/dev");
  EXPECT_NE(run(jail("b")).said.find("/dev is a symbolic link"), std::string::npos);
  fs::create_directories(folder("c") + "/root");
  fs::create_symlink(file("outside") + "/file", folder("c") + "/root/hello.pid");
  EXPECT_EQ(run(jail("c")).code, 1);
  EXPECT_TRUE(fs::is_empty(file("outside")));
}

TEST_F(JailerTest, RefusesNetworkNamespacesThatAreNone) {
  expect_refused_flags({"--netns", file("none")}, "cannot be opened");
  expect_refused_flags({"--netns", "/proc/self/ns/mnt"}, "is not a network namespace");
  expect_refused_flags({"--netns", "/dev/null"}, "is not a network namespace");
}

TEST_F(JailerTest, RefusesCgroupsThatAreNotThere) {
  expect_refused_flags({"--cgroup", "nothing.max=1"}, "--cgroup nothing.*");
  expect_refused_flags({"--cgroup", "nothing.max=1", "--cgroup-version", "2"}, "--cgroup");
  const auto cgroup = find_cgroup();
  if (!cgroup) GTEST_SKIP() << "no cgroups with a pids controller are mounted at /sys/fs/cgroup";
  std::vector<std::string> flags = cgroup->flags;
  flags.insert(flags.end(), {"--cgroup", "pids.none=1"});
  expect_refused_flags(flags, "there is no file pids.none");
  flags.back() = "pids.max=many";
  expect_refused_flags(flags, "cannot write 'many' to pids.max");
}

TEST_F(JailerTest, RefusesACgroupForWhichThereIsNoRoom) {
  std::string top = "/sys/fs/cgroup";
  if (!fs::exists(top + "/cgroup.controllers")) top += "/unified";
  if (!fs::exists(top + "/cgroup.controllers")) GTEST_SKIP() << "no cgroups of version 2 are mounted at /sys/fs/cgroup";
  const std::string parent = parent_cgroup() + "-full";
  const std::string full = top + "/" + parent;
  fs::create_directory(full);
  make_file(full + "/cgroup.max.descendants", "0");
  expect_refused_flags({"--cgroup-version", "2", "--parent-cgroup", parent, "--cgroup", "cgroup.max.depth=1"},
                       "no room for the cgroup");
  EXPECT_EQ(::rmdir(full.c_str()), 0) << "the machine's cgroup is in it";
}

TEST_F(JailerTest, RefusesLimitsThatTheKernelDoesNotSet) {
  expect_refused_flags({"--resource-limit", "no-file=18446744073709551614"}, "--resource-limit no-file=");
  expect_refused_flags({"--resource-limit", "no-file=18446744073709551614", "--daemonize", "--new-pid-ns"},
                       "--resource-limit no-file=");
}

TEST_F(JailerTest, TakesEverythingBackAlsoWithoutPrivileges) {
  // A process of the jail's user, who may have none: the kernel then refuses to execute another, the last step of all.
  Pipe until, ready;
  const pid_t other = ::fork();
  if (other == 0) {
    until.write.reset();
    char byte = 0;
    const bool ours = ::setresuid(kJailUid, kJailUid, kJailUid) == 0;
    ::_exit(ours && ::write(ready.write.get(), &byte, 1) == 1 && ::read(until.read.get(), &byte, 1) == 0 ? 0 : 1);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready.read.get(), &byte, 1), 1);
  std::vector<std::string> flags;
  if (const auto cgroup = find_cgroup()) flags = cgroup->flags;
  const std::vector<std::string> no_process = {"prlimit", "--nproc=0"};
  expect_refused(jail("vm", flags), "cannot execute /hello in the jail", no_process);
  flags.insert(flags.end(), {"--daemonize", "--new-pid-ns"});
  expect_refused(jail("vm", flags), "cannot execute /hello in the jail", no_process);

  fs::create_directories(folder("prepared") + "/root/run");
  make_file(folder("prepared") + "/root/kernel", "of the host");
  EXPECT_EQ(run(jail("prepared"), no_process).code, 1);
  std::vector<std::string> left;
  for (const auto& each : fs::recursive_directory_iterator{folder("prepared")})
    left.push_back(each.path().lexically_relative(folder("prepared")));
  std::ranges::sort(left);
  EXPECT_EQ(left, (std::vector<std::string>{"root", "root/kernel", "root/run"}));
  struct stat root{};
  ASSERT_EQ(::stat((folder("prepared") + "/root").c_str(), &root), 0);
  EXPECT_EQ(root.st_uid, 0u);
  until.write.reset();
  EXPECT_EQ(::waitpid(other, nullptr, 0), other);
}

TEST_F(JailerTest, RefusesAPreparedRootThatSomebodyElseCouldChangeMeanwhile) {
  fs::create_directories(folder("prepared") + "/root");
  ASSERT_EQ(::chown((folder("prepared") + "/root").c_str(), kJailUid, kJailGid), 0);
  const Outcome outcome = run(jail("prepared"));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.said.find("belongs to the user"), std::string::npos) << outcome.said;
  EXPECT_TRUE(fs::is_empty(folder("prepared") + "/root"));
}

TEST_F(JailerTest, IsNotKeptFromItsWorkByWhoeverMayReadADirectory) {
  fs::create_directories(folder("vm") + "/root");
  const OwnedFd prepared{::open(folder("vm").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  ASSERT_EQ(::flock(prepared.get(), LOCK_EX), 0);
  const Outcome made = run(jail("vm"));
  EXPECT_EQ(made.code, kCrashed) << made.said;
  const Outcome removed = clean_up("vm");
  EXPECT_EQ(removed.code, 0) << removed.said;
}

TEST_F(JailerTest, CleansUpNoJailWhoseProgramRunsInAnotherRoot) {
  ASSERT_EQ(run(jail("vm")).code, kCrashed);
  // As after a chroot in a user namespace of the monitor's own.
  const std::string program_in_jail = folder("vm") + "/root/hello";
  fs::remove(program_in_jail);
  fs::copy_file("/bin/cat", program_in_jail);
  {
    Pipe in, out;
    const ChildProcess escaped{{program_in_jail}, {.in = in.read.get(), .out = out.write.get(), .err = -1}};
    char byte = 'x';
    ASSERT_EQ(::write(in.write.get(), &byte, 1), 1);
    ASSERT_EQ(::read(out.read.get(), &byte, 1), 1) << "it runs";
    const Outcome refused = clean_up("vm");
    EXPECT_EQ(refused.code, 1);
    EXPECT_NE(refused.said.find("the process " + std::to_string(escaped.pid()) + " runs in it"), std::string::npos)
        << refused.said;
    EXPECT_TRUE(fs::exists(program_in_jail));
  }
  EXPECT_EQ(clean_up("vm").code, 0);
}

TEST_F(JailerTest, CleansUpNothingBehindLinksOrMounts) {
  ASSERT_EQ(run(jail("vm")).code, kCrashed);
  const std::string root = folder("vm") + "/root";
  fs::create_directory(file("outside"));
  make_file(file("outside") + "/precious", "");
  fs::create_directory_symlink(file("outside"), root + "/link");
  fs::create_directory(root + "/mounted");
  ASSERT_EQ(::mount(file("outside").c_str(), (root + "/mounted").c_str(), nullptr, MS_BIND, nullptr), 0);
  const Outcome refused = clean_up("vm");
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.said.find("/mounted is a mount"), std::string::npos) << refused.said;
  ASSERT_EQ(::umount((root + "/mounted").c_str()), 0);
  EXPECT_EQ(clean_up("vm").code, 0);
  EXPECT_FALSE(fs::exists(folder("vm")));
  EXPECT_TRUE(fs::exists(file("outside") + "/precious"));
}

TEST_F(JailerTest, ACleanupThatFailsLeavesWhatIsBesideTheRoot) {
  // A directory is read in the order of its names' making, or the other way round.
  for (const bool is_first : {true, false}) {
    const std::string id = is_first ? "first" : "last";
    fs::create_directories(folder(id));
    if (is_first) make_file(folder(id) + "/log", "");
    ASSERT_EQ(run(jail(id)).code, kCrashed);
    if (!is_first) make_file(folder(id) + "/log", "");
    const std::string mounted = folder(id) + "/root/dev";
    ASSERT_EQ(::mount(mounted.c_str(), mounted.c_str(), nullptr, MS_BIND, nullptr), 0);
    EXPECT_EQ(clean_up(id).code, 1);
    EXPECT_TRUE(fs::exists(folder(id) + "/log")) << id;
    EXPECT_TRUE(fs::exists(folder(id) + "/hello.pid")) << id;
    ASSERT_EQ(::umount(mounted.c_str()), 0);
    EXPECT_EQ(clean_up(id).code, 0);
    EXPECT_FALSE(fs::exists(folder(id)));
  }
}

TEST_F(JailerTest, CleansUpCgroupsToo) {
  const auto cgroup = find_cgroup();
  if (!cgroup) GTEST_SKIP() << "no cgroups with a pids controller are mounted at /sys/fs/cgroup";
  ASSERT_EQ(run(jail("vm", cgroup->flags)).code, kCrashed);
  EXPECT_TRUE(fs::exists(cgroup->parent + "/vm"));
  EXPECT_EQ(clean_up("vm", {"--parent-cgroup", parent_cgroup()}).code, 0);
  EXPECT_FALSE(fs::exists(cgroup->parent + "/vm"));
}

TEST_F(JailerTest, SaysThatThereIsNothingToCleanUp) {
  const Outcome outcome = clean_up("vm");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.said.find("there is no jail"), std::string::npos) << outcome.said;
  EXPECT_EQ(clean_up("..").code, 1);
}

TEST_F(JailerTest, NeedsRoot) {
  const Outcome outcome = run(jail("vm"), {"setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set=-all"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.said.find("must be run by root"), std::string::npos) << outcome.said;
}

}  // namespace
}  // namespace mayfly::testing
