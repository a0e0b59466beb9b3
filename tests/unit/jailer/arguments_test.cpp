#include "jailer/arguments.h"

#include <gtest/gtest.h>

namespace mayfly::jailer {
namespace {

Result<Invocation> parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "mayfly-jailer");
  return parse_jailer_arguments(static_cast<int>(arguments.size()), arguments.data());
}

/// The least that makes a jail, and more.
Result<Invocation> parse_jail(std::vector<const char*> more) {
  std::vector<const char*> all = {"--id", "vm-7", "--exec-file", "/usr/bin/mayfly", "--uid", "1000", "--gid", "1001"};
  all.insert(all.end(), more.begin(), more.end());
  return parse(all);
}

void expect_refused(const Result<Invocation>& invocation, const std::string& reason) {
  ASSERT_FALSE(invocation);
  EXPECT_NE(invocation.error().message.find(reason), std::string::npos) << invocation.error().message;
}

TEST(JailerArguments, TakeTheDialectsFlags) {
  const auto invocation = parse_jail({"--chroot-base-dir", "/jails", "--netns", "/run/netns/a", "--daemonize",
                                      "--new-pid-ns", "--allow-userfaultfd", "--cgroup", "cpu.max=50000 100000",
                                      "--cgroup", "io.max=8:0 rbps=1", "--cgroup-version", "2", "--parent-cgroup",
                                      "vms/small", "--resource-limit", "fsize=1000", "--resource-limit", "no-file=64"});
  ASSERT_TRUE(invocation);
  const auto* jail = std::get_if<JailArguments>(&*invocation);
  ASSERT_NE(jail, nullptr);
  EXPECT_EQ(jail->id, "vm-7");
  EXPECT_EQ(jail->exec_file, "/usr/bin/mayfly");
  EXPECT_EQ(jail->uid, 1000u);
  EXPECT_EQ(jail->gid, 1001u);
  EXPECT_EQ(jail->base, "/jails");
  EXPECT_EQ(jail->netns, "/run/netns/a");
  EXPECT_TRUE(jail->daemonize);
  EXPECT_TRUE(jail->new_pid_ns);
  EXPECT_TRUE(jail->allow_userfaultfd);
  EXPECT_EQ(jail->cgroups.version, 2);
  EXPECT_EQ(jail->cgroups.parent, "vms/small");
  ASSERT_EQ(jail->cgroups.settings.size(), 2u);
  EXPECT_EQ(jail->cgroups.settings[0].file, "cpu.max");
  EXPECT_EQ(jail->cgroups.settings[0].value, "50000 100000");
  EXPECT_EQ(jail->cgroups.settings[0].controller(), "cpu");
  EXPECT_EQ(jail->cgroups.settings[1].value, "8:0 rbps=1");
  EXPECT_EQ(jail->limits.file_size, 1000u);
  EXPECT_EQ(jail->limits.open_files, 64u);
}

TEST(JailerArguments, OfTheMonitorBelongAfterTheHyphens) {
  expect_refused(parse_jail({"--api-sock", "/api.sock"}),
                 "there is no option or command --api-sock; the monitor's own follow after --");
}

TEST(JailerArguments, HaveTheDialectsDefaults) {
  const auto invocation = parse_jail({});
  ASSERT_TRUE(invocation);
  const auto* jail = std::get_if<JailArguments>(&*invocation);
  ASSERT_NE(jail, nullptr);
  EXPECT_EQ(jail->base, "/srv/jailer");
  EXPECT_EQ(jail->cgroups.version, 1);
  EXPECT_EQ(jail->limits.open_files, 2048u);
  EXPECT_FALSE(jail->limits.file_size);
  EXPECT_FALSE(jail->daemonize || jail->new_pid_ns || jail->allow_userfaultfd || jail->netns || jail->cgroups.parent);
  EXPECT_TRUE(jail->monitor.empty());
}

TEST(JailerArguments, LeaveToTheMonitorWhatStandsAfterTwoDashes) {
  const auto invocation = parse_jail({"--", "--api-sock", "/api", "--id", "other", "--", "cleanup"});
  ASSERT_TRUE(invocation);
  const auto* jail = std::get_if<JailArguments>(&*invocation);
  ASSERT_NE(jail, nullptr);
  EXPECT_EQ(jail->id, "vm-7");
  EXPECT_EQ(jail->monitor, (std::vector<std::string>{"--api-sock", "/api", "--id", "other", "--", "cleanup"}));
}

TEST(JailerArguments, OfACleanupTakeTheExecutablesName) {
  const auto invocation = parse({"cleanup", "vm-7", "--exec-file", "/usr/bin/monitor", "--chroot-base-dir", "/jails"});
  ASSERT_TRUE(invocation);
  const auto* cleanup = std::get_if<CleanupArguments>(&*invocation);
  ASSERT_NE(cleanup, nullptr);
  EXPECT_EQ(cleanup->id, "vm-7");
  EXPECT_EQ(cleanup->exec_name, "monitor");
  EXPECT_EQ(cleanup->base, "/jails");
}

TEST(JailerArguments, OfACleanupAreCheckedLikeAJails) {
  expect_refused(parse({"cleanup", "../vm"}), "letters, digits and hyphens");
  expect_refused(parse({"cleanup", "vm", "--exec-file", "/usr/.."}), "--exec-file");
  expect_refused(parse({"cleanup", "vm", "--parent-cgroup", "../x"}), "--parent-cgroup");
}

TEST(JailerArguments, BeforeACleanupAreNotSwallowed) {
  expect_refused(parse({"--chroot-base-dir", "/data/jails", "cleanup", "vm-1"}),
                 "--chroot-base-dir stands before cleanup");
  expect_refused(parse({"--parent-cgroup", "vms", "cleanup", "vm-1"}), "--parent-cgroup stands before cleanup");
  expect_refused(parse({"--exec-file", "/usr/bin/monitor", "cleanup", "vm-1"}), "--exec-file stands before cleanup");
  expect_refused(parse({"--daemonize", "cleanup", "vm-1"}), "--daemonize stands before cleanup");
}

TEST(JailerArguments, ThatAreEmptyAreNotTakenAsNotGiven) {
  expect_refused(parse_jail({"--netns", ""}), "--netns ''");
  expect_refused(parse_jail({"--parent-cgroup", ""}), "--parent-cgroup ''");
  expect_refused(parse({"cleanup", "vm", "--parent-cgroup", ""}), "--parent-cgroup ''");
}

TEST(JailerArguments, ThatAreMissingAreNamed) {
  expect_refused(parse({}), "--id is missing");
  expect_refused(parse({"--id", "a", "--exec-file", "b", "--gid", "1"}), "--uid is missing");
}

TEST(JailerArguments, AreNotGuessedAt) {
  expect_refused(parse_jail({"--cgroup-version", "3"}), "--cgroup-version");
  expect_refused(parse_jail({"--node", "0"}), "--node");
  expect_refused(parse_jail({"--id", "second"}), "--id");
  expect_refused(parse_jail({"stray"}), "stray");
}

TEST(JailerArguments, AnswerForHelpAndVersion) {
  for (const auto& [flags, part] : {std::pair<std::vector<const char*>, const char*>{{"--version"}, "Mayfly jailer v"},
                                    {{"--help"}, "--chroot-base-dir"},
                                    {{"cleanup", "--help"}, "Where the jail was made"}}) {
    const auto invocation = parse(flags);
    ASSERT_TRUE(invocation);
    const auto* answer = std::get_if<PrintText>(&*invocation);
    ASSERT_NE(answer, nullptr);
    EXPECT_NE(answer->text.find(part), std::string::npos) << answer->text;
  }
}

TEST(JailId, HasOneTo64LettersDigitsAndHyphens) {
  EXPECT_TRUE(is_id("a"));
  EXPECT_TRUE(is_id("551e7604-e35c-42b3-b825-416853441234"));
  EXPECT_TRUE(is_id(std::string(64, 'Z')));
  EXPECT_FALSE(is_id(""));
  EXPECT_FALSE(is_id(std::string(65, 'a')));
  for (const std::string_view bad : {".", "..", "a/b", "../a", "a_b", "a b", "a\n", "\xc3\xa4"})
    EXPECT_FALSE(is_id(bad)) << bad;
  EXPECT_FALSE(is_id(std::string_view{"a\0b", 3}));
}

TEST(JailUser, IsADecimalNumberBelowTheLargest) {
  EXPECT_EQ(parse_user_number("--uid", "0"), 0u);
  EXPECT_EQ(parse_user_number("--uid", "4294967294"), 4294967294u);
  for (const std::string_view bad :
       {"", "root", "-1", "+1", " 1", "1 ", "0x10", "1.5", "4294967295", "4294967296", "99999999999999999999999"}) {
    const auto refused = parse_user_number("--uid", bad);
    ASSERT_FALSE(refused) << bad;
    EXPECT_NE(refused.error().message.find("--uid"), std::string::npos);
  }
}

TEST(JailCgroupSetting, CannotLeaveItsCgroup) {
  for (const std::string_view bad : {"", "=", "cpu.max", "cpu.max=", "cpu=1", ".max=1", "=1", "../cpu.max=1",
                                     "a/cpu.max=1", "cpu.max\n=1", "cpu max.x=1"})
    EXPECT_FALSE(parse_cgroup_setting(bad)) << bad;
  EXPECT_TRUE(parse_cgroup_setting("memory.limit_in_bytes=1G"));
}

TEST(JailCgroupParent, CannotLeaveItsHierarchy) {
  EXPECT_TRUE(check_parent_cgroup("vms"));
  EXPECT_TRUE(check_parent_cgroup("system.slice/vms"));
  for (const std::string_view bad : {"", "/", "/vms", "..", "a/../b", "a//b", "./a"})
    EXPECT_FALSE(check_parent_cgroup(bad)) << bad;
}

TEST(JailResourceLimit, IsOneOfTwoWithANumber) {
  ResourceLimits limits;
  EXPECT_TRUE(parse_resource_limit("fsize=0", limits));
  EXPECT_EQ(limits.file_size, 0u);
  for (const std::string_view bad :
       {"", "fsize", "fsize=", "fsize=1k", "no-file=-1", "no-file= 1", "nproc=1", "=1", "fsize=99999999999999999999"})
    EXPECT_FALSE(parse_resource_limit(bad, limits)) << bad;
}

}  // namespace
}  // namespace mayfly::jailer
