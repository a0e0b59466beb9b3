#include "rootfs-tools/image/run_config.h"

#include "tests/support/child_process.h"
#include "tests/unit/rootfs-tools/image/archives.h"
#include "vmm/base/json_value.h"

#include <string>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

constexpr std::string_view kPasswd =
    "# accounts\n"
    "root:x:0:0:root:/root:/bin/sh\n"
    "broken\n"
    "wrong:x:-1:x::/:\n"
    "www:x:33:34::/var/www:/bin/sh\n"
    "1234:x:77:78::/odd:\n"
    "last:x:99:100";
constexpr std::string_view kGroup =
    "root:x:0:\n"
    "wheel:x:10:root,www\n"
    "www:x:34:\n"
    "video:x:44:nobody,www,last\n"
    "bad:x:many:www\n";

std::string text_of(const Result<RunUser>& user) {
  if (!user) return user.error().message;
  std::string text = fmt::format("{}:{}", user->uid, user->gid);
  for (const std::uint32_t each : user->groups) text += fmt::format(" +{}", each);
  return text + " " + user->home;
}

TEST(RunUser, IsLookedUpAsRuncDoes) {
  const auto user = [](std::string_view text) { return text_of(find_user(text, kPasswd, kGroup)); };
  EXPECT_EQ(user(""), "0:0 +10 /root");
  EXPECT_EQ(user("root"), "0:0 +10 /root");
  EXPECT_EQ(user("www"), "33:34 +10 +44 /var/www");
  EXPECT_EQ(user("33"), "33:34 +10 +44 /var/www");
  EXPECT_EQ(user("33:"), "33:34 +10 +44 /var/www");
  EXPECT_EQ(user("www:video"), "33:44 /var/www") << "a group that is given is the only one";
  EXPECT_EQ(user("www:7"), "33:7 /var/www");
  EXPECT_EQ(user("5000"), "5000:0 /") << "a number needs no account";
  EXPECT_EQ(user("5000:www"), "5000:34 /");
  EXPECT_EQ(user("1234"), "1234:0 /") << "digits are a number, whatever accounts are called";
  EXPECT_EQ(user("77"), "77:78 /odd");
  EXPECT_EQ(text_of(find_user("5000:34", kPasswd, "34:x:1:\nwww:x:34:")), "5000:34 /");
  EXPECT_EQ(user("last"), "99:100 +44 /");
  EXPECT_EQ(user(":video"), "0:44 /root");
  EXPECT_EQ(user("nobody"),
            "the user 'nobody' is not in the image's /etc/passwd; add it there, or give a number as USER");
  EXPECT_EQ(user("www:none"),
            "the group 'none' is not in the image's /etc/group; add it there, or give a number as USER:GROUP");
  EXPECT_EQ(user("4294967295"),
            "the user '4294967295' is not in the image's /etc/passwd; add it there, or give a number as USER");
}

TEST(RunUser, NeedsNoFiles) {
  EXPECT_EQ(text_of(find_user("", "", "")), "0:0 /");
  EXPECT_EQ(text_of(find_user("7:8", "", "")), "7:8 /");
}

TEST(StopSignal, IsANameOrANumber) {
  for (const auto& [text, number] : {std::pair{"SIGTERM", 15},
                                     {"TERM", 15},
                                     {"9", 9},
                                     {"SIGQUIT", 3},
                                     {"SIGWINCH", 28},
                                     {"sigquit", 3},
                                     {"term", 15},
                                     {"SigRtMin+3", 37},
                                     {"SIGCLD", 17},
                                     {"SIGRTMIN", 34},
                                     {"SIGRTMIN+3", 37},
                                     {"RTMAX-1", 63},
                                     {"RTMAX", 64}})
    EXPECT_EQ(signal_number(text).value(), number) << text;
  for (const char* const text : {"", "SIG", "0", "65", "-1", "SIGRTMIN+99", "SIGRTMIN-1", "RTMAX+1", "sigsig", "9 "})
    EXPECT_EQ(signal_number(text).error().message,
              "the stop signal '" + std::string{text} + "' is unknown; give one like SIGTERM");
}

class RunConfigTest : public ::testing::Test {
 protected:
  RunConfigTest() { tree_.begin_layer(); }

  void put_file(const std::string& path, std::string_view text) {
    const FileData data = spool_.reserve(text.size());
    ASSERT_TRUE(spool_.write(data, 0, std::as_bytes(std::span{text})));
    ASSERT_TRUE(tree_.put(path, Inode{.kind = InodeKind::File, .data = data}));
  }
  Result<RunConfig> read(const std::string& config) {
    return read_run_config(R"({"os":"linux","config":)" + config + "}", tree_, spool_, "the configuration");
  }
  std::string refusal(const std::string& config) {
    const auto run = read(config);
    return run ? "" : run.error().message;
  }

  mayfly::testing::ScratchDirectory scratch_;
  FileTree tree_{ImageLimits{}};
  Spool spool_ = std::move(Spool::create(scratch_.file("."))).value();
};

TEST_F(RunConfigTest, HasWhatTheImageSays) {
  put_file("usr/etc/passwd", kPasswd);
  put_file("usr/etc/group", kGroup);
  ASSERT_TRUE(tree_.put("etc", Inode{.kind = InodeKind::Symlink, .target = "usr/etc"}));
  const auto run = read(R"({"Entrypoint":["/bin/sh","-c"],"Cmd":["a b","\""],"Env":["PATH=/bin","EMPTY="],"User":"www",
    "WorkingDir":"/srv","StopSignal":"SIGQUIT","ExposedPorts":{"8080/udp":{},"80":{},"8080/tcp":{}},"Labels":{"a":"b"}})");
  ASSERT_TRUE(run) << run.error().message;
  const std::string json = to_json(*run, {.image_digest = "sha256:1",
                                          .config_digest = "sha256:2",
                                          .names = {"app:1"},
                                          .platform = "linux/amd64",
                                          .base_digest = "sha256:3",
                                          .base_bytes = 4096});
  EXPECT_EQ(json, R"({"version":1,"image":{"digest":"sha256:1","config_digest":"sha256:2","names":["app:1"],)"
                  R"("platform":"linux/amd64"},"base":{"format":"squashfs","digest":"sha256:3","size_bytes":4096},)"
                  R"("entrypoint":["/bin/sh","-c"],"cmd":["a b","\""],"env":["PATH=/bin","EMPTY="],)"
                  R"("user":{"name":"www","uid":33,"gid":34,"additional_gids":[10,44],"home":"/var/www"},)"
                  R"("working_dir":"/srv","stop_signal":3,)"
                  R"("exposed_ports":[{"port":80,"protocol":"tcp"},{"port":8080,"protocol":"tcp"},)"
                  R"({"port":8080,"protocol":"udp"}]})"
                  "\n");
  EXPECT_TRUE(parse_json(json, "it"));
}

TEST_F(RunConfigTest, MaySayNothing) {
  for (const char* const config :
       {"{}", "null", R"({"Entrypoint":null,"Env":null,"ExposedPorts":null,"WorkingDir":""})"}) {
    const auto run = read(config);
    ASSERT_TRUE(run) << run.error().message;
    EXPECT_TRUE(run->entrypoint.empty());
    EXPECT_EQ(run->working_directory, "/");
    EXPECT_EQ(run->stop_signal, 15);
    EXPECT_EQ(run->user.uid, 0U);
  }
  EXPECT_EQ(read(R"({"WorkingDir":"srv/x"})")->working_directory, "/srv/x");
}

TEST_F(RunConfigTest, RefusalsNameFieldAndValue) {
  EXPECT_EQ(refusal(R"({"Cmd":"sh"})"), "the configuration: 'Cmd' must be an array; make it anew");
  EXPECT_EQ(refusal(R"({"Cmd":[1]})"), "the configuration: 'Cmd' must be a string; make it anew");
  EXPECT_EQ(refusal(R"({"Cmd":["a\u0000b"]})"), "the configuration: 'Cmd' must be without NUL; make it anew");
  EXPECT_EQ(refusal(R"({"Env":["=x"]})"),
            "the configuration: the variable '=x' must be NAME=VALUE; build the image anew");
  EXPECT_EQ(refusal(R"({"ExposedPorts":{"0/tcp":{}}})"),
            "the configuration: the exposed port '0/tcp' must be like 80/tcp; build the image anew");
  EXPECT_EQ(refusal(R"({"ExposedPorts":{"80/icmp":{}}})"),
            "the configuration: the exposed port '80/icmp' must be like 80/tcp; build the image anew");
  EXPECT_EQ(refusal(R"({"StopSignal":"SIGNONE"})"),
            "the configuration: the stop signal 'SIGNONE' is unknown; give one like SIGTERM");
  EXPECT_EQ(refusal(R"({"User":"none"})"),
            "the configuration: the user 'none' is not in the image's /etc/passwd; add it there, or give a number as "
            "USER");
}

TEST_F(RunConfigTest, NamesVolumes) {
  EXPECT_EQ(read(R"({"Volumes":{"/data":{},"/srv/x":{}}})")->volumes, (std::vector<std::string>{"/data", "/srv/x"}));
  EXPECT_EQ(refusal(R"({"Volumes":{"/a\u0000b":{}}})"),
            "the configuration: the volume '/a?b' must be without NUL; build the image anew");
}

TEST_F(RunConfigTest, KnowsProgramsThatMustBeProcess1) {
  const std::string s6 = R"({"Entrypoint":["/init"],"Cmd":["/app"]})";
  const std::string systemd = R"({"Cmd":["/sbin/init"]})";
  put_file("init", "#!/bin/sh");
  EXPECT_EQ(read(s6)->init, "") << "a program of that name";
  ASSERT_TRUE(tree_.put("package/admin/s6-overlay-3.2.0.2", Inode{}));
  EXPECT_EQ(read(s6)->init, "s6-overlay");
  EXPECT_EQ(read(R"({"Entrypoint":["/app"],"Cmd":["/init"]})")->init, "") << "an argument";
  EXPECT_EQ(read(systemd)->init, "") << "nothing is there";
  ASSERT_TRUE(tree_.put("sbin/init", Inode{.kind = InodeKind::Symlink, .target = "../lib/systemd/systemd"}));
  EXPECT_EQ(read(systemd)->init, "") << "the link leads nowhere";
  put_file("lib/systemd/systemd", "ELF");
  EXPECT_EQ(read(systemd)->init, "systemd");
  EXPECT_EQ(read(R"({"Entrypoint":["/lib/systemd/systemd"]})")->init, "systemd");
  EXPECT_EQ(read("{}")->init, "");
}

TEST_F(RunConfigTest, AnAccountFileMayBeNoFile) {
  ASSERT_TRUE(tree_.put("etc/passwd", Inode{.kind = InodeKind::Fifo}));
  ASSERT_TRUE(tree_.put("etc/group", Inode{.kind = InodeKind::Symlink, .target = "/etc/group"}));
  EXPECT_EQ(refusal("{}"), "");
  ASSERT_TRUE(tree_.put("etc/passwd", Inode{.kind = InodeKind::File, .data = spool_.reserve(2 << 20)}));
  EXPECT_EQ(refusal("{}"), "the image's /etc/passwd has 2097152 bytes, and 1048576 are allowed");
}

}  // namespace
}  // namespace mayfly::image
