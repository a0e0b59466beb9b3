#include "vmm/cli/options.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using TextList = std::vector<std::string>;

Invocation parse_agents(std::vector<const char*> words) {
  words.insert(words.begin(), "mayfly");
  return parse_options(static_cast<int>(words.size()), words.data());
}

ExecOptions exec_of(std::vector<const char*> words) {
  words.insert(words.begin(), "exec");
  const auto invocation = parse_agents(std::move(words));
  const auto* const options = std::get_if<ExecOptions>(&invocation);
  return options == nullptr ? ExecOptions{.machine = "refused"} : *options;
}

TEST(ExecOptions, HasAMachineAndACommand) {
  const auto options =
      exec_of({"-i", "-t", "--user", "web:web", "--env", "A=b", "-e", "C=", "--cwd", "/srv", "vm-1", "--", "ls", "-l"});
  EXPECT_EQ(options.machine, "vm-1");
  EXPECT_EQ(options.command, (TextList{"ls", "-l"}));
  EXPECT_TRUE(options.interactive);
  EXPECT_TRUE(options.tty);
  EXPECT_EQ(options.user, "web:web");
  EXPECT_EQ(options.environment, (TextList{"A=b", "C="}));
  EXPECT_EQ(options.directory, "/srv");
  EXPECT_EQ(exec_of({"vm-1", "ls", "/srv"}).command, (TextList{"ls", "/srv"})) << "without --, where no option follows";
  EXPECT_TRUE(exec_of({"-it", "vm-1", "--", "sh"}).tty);
  EXPECT_FALSE(exec_of({"vm-1", "--", "sh", "-t"}).tty);
  EXPECT_EQ(exec_of({"--jail-base", "/jails", "vm-1", "--", "sh"}).bases.jail_base, "/jails");
  EXPECT_EQ(exec_of({"vm-1", "--", "sh"}).bases.jail_base, "/srv/jailer");
  EXPECT_EQ(exec_of({"--run-dir", "/clones", "vm-1", "--", "sh"}).bases.run_directory, "/clones");
}

TEST(ExecOptions, TakesNoWordOfTheCommandForItsOwn) {
  EXPECT_EQ(exec_of({"vm-1", "--", "top", "run", "--help", "completion", "--", "--version"}).command,
            (TextList{"top", "run", "--help", "completion", "--", "--version"}));
  EXPECT_EQ(exec_of({"--agent-socket", "/s", "--", "vm-1"}).command, (TextList{"vm-1"}));
  EXPECT_EQ(exec_of({"--agent-socket", "/s", "--", "vm-1"}).machine, "");
}

TEST(ExecOptions, AreRefusedByName) {
  for (const auto& words : std::vector<std::vector<const char*>>{{},
                                                                 {"vm-1"},
                                                                 {"vm-1", "--"},
                                                                 {"vm-1", "--", ""},
                                                                 {"--agent-socket", "/s"},
                                                                 {"--env", "A", "vm-1", "--", "x"},
                                                                 {"--env", "=A", "vm-1", "--", "x"},
                                                                 {"--cwd", "srv", "vm-1", "--", "x"},
                                                                 {"--nonsense", "vm-1", "--", "x"}})
    EXPECT_EQ(exec_of(words).machine, "refused");
}

TEST(CopyOptions, HaveTwoSides) {
  const auto invocation = parse_agents({"cp", "--agent-socket", "/s", ":/etc", "there"});
  const auto& options = std::get<CopyOptions>(invocation);
  EXPECT_EQ(options.source, ":/etc");
  EXPECT_EQ(options.destination, "there");
  EXPECT_EQ(options.agent_socket, "/s");
  EXPECT_TRUE(std::holds_alternative<ExitNow>(parse_agents({"cp", "one"})));
  EXPECT_TRUE(std::holds_alternative<ExitNow>(parse_agents({"cp", "one", "two", "three"})));
}

TEST(CommandsWithTwoDashes, AreAsBeforeWhereTheyAreNotForAGuest) {
  EXPECT_TRUE(std::holds_alternative<CopyOptions>(parse_agents({"cp", "--", "one", "two"})));
  EXPECT_TRUE(std::holds_alternative<RemoteOptions>(parse_agents({"pause", "--", "vm-1"})));
}

}  // namespace
}  // namespace mayfly
