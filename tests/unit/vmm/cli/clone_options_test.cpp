#include "vmm/cli/options.h"

#include <variant>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

Invocation parse_clones(std::vector<const char*> words) {
  words.insert(words.begin(), "mayfly");
  return parse_options(static_cast<int>(words.size()), words.data());
}

TEST(CloneOptions, OfUp) {
  const auto invocation = parse_clones({"up", "app.template", "--id", "vm-1", "--metadata", "m", "--uid", "1000",
                                        "--jail-base", "/jails", "--patience", "7"});
  ASSERT_TRUE(std::holds_alternative<UpOptions>(invocation));
  const auto& options = std::get<UpOptions>(invocation);
  EXPECT_EQ(options.directory, "app.template");
  EXPECT_EQ(options.id, "vm-1");
  EXPECT_EQ(options.metadata, "m");
  EXPECT_FALSE(options.no_jail);
  EXPECT_EQ(options.user, 1000U);
  EXPECT_EQ(options.jail_base, "/jails");
  EXPECT_EQ(options.patience_s, 7U);
  EXPECT_TRUE(std::get<UpOptions>(parse_clones({"up", "t", "--no-jail"})).no_jail);
}

TEST(CloneOptions, OfDownAndLogs) {
  const auto down =
      std::get<DownOptions>(parse_clones({"down", "vm-1", "--now", "--timeout", "3", "--jail-base", "/j"}));
  EXPECT_EQ(down.machine, "vm-1");
  EXPECT_TRUE(down.now);
  EXPECT_EQ(down.timeout_s, 3U);
  EXPECT_EQ(down.jail_base, "/j");
  const auto logs = std::get<LogsOptions>(parse_clones({"logs", "-f", "vm-1"}));
  EXPECT_EQ(logs.machine, "vm-1");
  EXPECT_TRUE(logs.follow);
}

TEST(CloneOptions, WhatIsMissingOrWrongIsRefused) {
  for (const auto& words : std::vector<std::vector<const char*>>{
           {"up"}, {"down"}, {"logs"}, {"up", "t", "--uid", "root"}, {"up", "t", "--uid", "0"}, {"down", "a", "b"}})
    EXPECT_TRUE(std::holds_alternative<ExitNow>(parse_clones(words))) << words.front();
}

}  // namespace
}  // namespace mayfly
