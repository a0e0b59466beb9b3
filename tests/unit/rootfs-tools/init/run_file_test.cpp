#include "rootfs-tools/init/run_file.h"

#include "rootfs-tools/image/run_file.h"
#include "rootfs-tools/init/network.h"

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using namespace std::string_literals;
using guest_init::parse_run_file;
using guest_init::RunFile;

std::vector<std::string> texts_of(const auto& pointers) {
  std::vector<std::string> texts;
  for (std::size_t i = 0; pointers[i] != nullptr; ++i) texts.emplace_back(pointers[i]);
  return texts;
}

image::RunConfig a_config() {
  image::RunConfig config;
  config.entrypoint = {"/app", ""};
  config.command = {"--word=a b", "\n=\x80"};
  config.environment = {"PATH=/bin", "A="};
  config.user = {.uid = 33, .gid = 4294967294, .groups = {1, 44}, .home = "/home/web"};
  config.working_directory = "/srv";
  config.stop_signal = 64;
  return config;
}

TEST(RunFile, IsParsedAsItWasWritten) {
  const auto text = image::to_run_file(a_config()).value();
  const auto run = std::make_unique<RunFile>();
  const auto wrong = parse_run_file(text, *run);
  ASSERT_FALSE(wrong) << *wrong;
  EXPECT_EQ(texts_of(run->arguments), (std::vector<std::string>{"/app", "", "--word=a b", "\n=\x80"}));
  EXPECT_EQ(texts_of(run->environment), (std::vector<std::string>{"PATH=/bin", "A="}));
  EXPECT_EQ(run->uid, 33U);
  EXPECT_EQ(run->gid, 4294967294U);
  EXPECT_EQ((std::vector<std::uint32_t>{run->groups.begin(), run->groups.begin() + 2}),
            (std::vector<std::uint32_t>{1, 44}));
  EXPECT_EQ(run->group_count, 2U);
  EXPECT_STREQ(run->home, "/home/web");
  EXPECT_STREQ(run->directory, "/srv");
  EXPECT_EQ(run->stop_signal, 64);
}

TEST(RunFile, OfAnImageThatSaysNothingIsRoots) {
  const auto text = image::to_run_file(image::RunConfig{}).value();
  const auto run = std::make_unique<RunFile>();
  ASSERT_FALSE(parse_run_file(text, *run));
  EXPECT_EQ(run->arguments[0], nullptr);
  EXPECT_EQ(run->uid, 0U);
  EXPECT_STREQ(run->directory, "/");
  EXPECT_EQ(run->stop_signal, 15);
}

TEST(RunFile, HoldsAsMuchAsItSays) {
  image::RunConfig config;
  config.entrypoint.assign(guest_init::kMostRunWords, "w");
  config.environment.assign(guest_init::kMostRunWords, "A=b");
  config.user.groups.assign(guest_init::kMostRunGroups, 7);
  const auto run = std::make_unique<RunFile>();
  const auto text = image::to_run_file(config).value();  // `run` points into it
  ASSERT_FALSE(parse_run_file(text, *run));
  EXPECT_EQ(texts_of(run->arguments).size(), guest_init::kMostRunWords);
  config.entrypoint.emplace_back("one more");
  EXPECT_TRUE(
      image::to_run_file(config).error().message.contains("1025 words in entrypoint and cmd, and 1024 are allowed"));
  config.entrypoint = {std::string(guest_init::kRunFileLimit, 'x')};
  EXPECT_TRUE(image::to_run_file(config).error().message.contains("bytes of words and variables"));
  config.entrypoint = {"zero\0byte"s};
  EXPECT_TRUE(image::to_run_file(config).error().message.contains("'zero?byte' has a zero byte"));
}

TEST(RunFile, NamesTheRecordThatIsWrong) {
  const auto wrong_in = [](const std::string& text) {
    const auto run = std::make_unique<RunFile>();
    return std::string{parse_run_file(text, *run).value_or("all is right")};
  };
  const std::string mark = "mayfly-run-1\0"s;
  EXPECT_EQ(wrong_in(mark), "all is right");
  EXPECT_EQ(wrong_in(""), "nothing");
  EXPECT_EQ(wrong_in("mayfly-run-2\0arg=x\0"s), "mayfly-run-2");
  EXPECT_EQ(wrong_in(mark + "arg=cut"), "arg=cut");
  for (const std::string record : {"arg", "unknown=x", "=x", "uid=", "uid=-1", "uid=4294967296", "uid=1x", "gid=x",
                                   "home=", "cwd=relative", "stop=0", "stop=65", "stop="})
    EXPECT_EQ(wrong_in(mark + record + '\0'), record);
  std::string many = mark;
  for (std::size_t i = 0; i <= guest_init::kMostRunWords; ++i) many += "arg=" + std::to_string(i) + '\0';
  EXPECT_EQ(wrong_in(many), "arg=1024");
  std::string groups = mark;
  for (std::size_t i = 0; i <= guest_init::kMostRunGroups; ++i) groups += "group=" + std::to_string(i) + '\0';
  EXPECT_EQ(wrong_in(groups), "group=64");
}

}  // namespace
}  // namespace mayfly
