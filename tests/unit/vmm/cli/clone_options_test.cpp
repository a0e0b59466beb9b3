#include "vmm/cli/options.h"

#include <cstdlib>
#include <string>
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
  const auto invocation =
      parse_clones({"up", "app.template", "--id", "vm-1", "--metadata", "m", "--uid", "1000", "--jail-base", "/jails",
                    "--patience", "7", "--run-dir", "/clones", "--max-output", "256"});
  ASSERT_TRUE(std::holds_alternative<UpOptions>(invocation));
  const auto& options = std::get<UpOptions>(invocation);
  EXPECT_EQ(options.directory, "app.template");
  EXPECT_EQ(options.id, "vm-1");
  EXPECT_EQ(options.metadata, "m");
  EXPECT_FALSE(options.no_jail);
  EXPECT_EQ(options.user, 1000U);
  EXPECT_EQ(options.bases.jail_base, "/jails");
  EXPECT_EQ(options.patience_s, 7U);
  EXPECT_EQ(options.bases.run_directory, "/clones");
  EXPECT_EQ(options.max_output_kib, 256U);
  EXPECT_TRUE(std::get<UpOptions>(parse_clones({"up", "t", "--no-jail"})).no_jail);
}

TEST(CloneOptions, LimitsArePassedOnUnderTheJailersNames) {
  const auto options = std::get<UpOptions>(
      parse_clones({"up", "t", "--cgroup", "memory.max=1G", "--cgroup", "cpu.max=50000 100000", "--cgroup-version", "2",
                    "--parent-cgroup", "functions", "--resource-limit", "fsize=1000"}));
  EXPECT_EQ(options.jailer_words,
            (std::vector<std::string>{"--cgroup", "memory.max=1G", "--cgroup", "cpu.max=50000 100000",
                                      "--cgroup-version", "2", "--resource-limit", "fsize=1000"}));
  EXPECT_EQ(options.parent_cgroup, "functions");
}

TEST(CloneOptions, TheRunDirectoryMayBeAVariable) {
  ASSERT_EQ(::setenv("MAYFLY_RUN_DIR", "/by/variable", 1), 0);
  EXPECT_EQ(std::get<UpOptions>(parse_clones({"up", "t"})).bases.run_directory, "/by/variable");
  EXPECT_EQ(std::get<DownOptions>(parse_clones({"down", "a"})).bases.run_directory, "/by/variable");
  EXPECT_EQ(std::get<LogsOptions>(parse_clones({"logs", "a"})).bases.run_directory, "/by/variable");
  EXPECT_EQ(std::get<LogsOptions>(parse_clones({"logs", "a", "--run-dir", "/given"})).bases.run_directory, "/given");
  ::unsetenv("MAYFLY_RUN_DIR");
  EXPECT_EQ(std::get<UpOptions>(parse_clones({"up", "t"})).bases.run_directory, "");
}

TEST(CloneOptions, OfDownAndLogs) {
  const auto down =
      std::get<DownOptions>(parse_clones({"down", "vm-1", "--now", "--timeout", "3", "--jail-base", "/j"}));
  EXPECT_EQ(down.machine, "vm-1");
  EXPECT_TRUE(down.now);
  EXPECT_EQ(down.timeout_s, 3U);
  EXPECT_EQ(down.bases.jail_base, "/j");
  const auto logs = std::get<LogsOptions>(parse_clones({"logs", "-f", "vm-1"}));
  EXPECT_EQ(logs.machine, "vm-1");
  EXPECT_TRUE(logs.follow);
}

TEST(CloneOptions, WhatIsMissingOrWrongIsRefused) {
  for (const auto& words : std::vector<std::vector<const char*>>{{"up"},
                                                                 {"down"},
                                                                 {"logs"},
                                                                 {"up", "t", "--uid", "root"},
                                                                 {"up", "t", "--uid", "0"},
                                                                 {"down", "a", "b"},
                                                                 {"up", "t", "--max-output", "127"},
                                                                 {"up", "t", "--cgroup-version", "3"}})
    EXPECT_TRUE(std::holds_alternative<ExitNow>(parse_clones(words))) << words.front();
}

}  // namespace
}  // namespace mayfly
