#include "rootfs-tools/agent/host/exec_client.h"
#include "tests/support/files.h"
#include "tests/support/manual_page.h"
#include "vmm/cli/options.h"
#include "vmm/machine/machine_end.h"

#include <array>
#include <map>
#include <set>
#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using Entries = std::map<std::string, std::set<std::string>>;

const std::string kPage = testing::project_file("vmm/cli/mayfly.1");
/// Under which the page has what several commands share.
constexpr const char* kShared = "Of every way to start a machine";

/// Each command with its options, but for --help below the first.
void add_commands(const CommandTree& tree, const std::string& place, Entries& entries) {
  std::set<std::string>& here = entries[place];
  for (const CommandOption& option : tree.options) here.insert(option.names.begin(), option.names.end());
  if (place != "mayfly") {
    here.erase("-h");
    here.erase("--help");
  }
  for (const CommandTree& command : tree.commands) add_commands(command, place + ' ' + command.name, entries);
}

TEST(Manual, HasEachCommandWithItsOptionsAndNoOther) {
  const std::array words = {"mayfly", "completion", "bash"};
  const auto invocation = parse_options(static_cast<int>(words.size()), words.data());
  Entries commands;
  add_commands(std::get<CompletionOptions>(invocation).commands, "mayfly", commands);

  Entries page;
  const Entries all = testing::manual_entries(testing::content_of(kPage));
  for (const auto& [heading, entries] : all)
    if (heading.starts_with("mayfly")) page.emplace(heading, entries);
  for (const char* const place : {"mayfly", "mayfly run", "mayfly restore"})
    page[place].insert(all.at(kShared).begin(), all.at(kShared).end());

  for (const auto& [place, options] : commands) EXPECT_EQ(page[place], options) << "left the page, right " << place;
  for (const auto& [place, entries] : page) EXPECT_TRUE(commands.contains(place)) << "there is no command " << place;
}

TEST(Manual, HasEachExitStatus) {
  std::set<std::string> codes = {std::to_string(kExitError),
                                 std::to_string(kExitBadConfiguration),
                                 std::to_string(kExitBadArguments),
                                 std::to_string(seccomp::kExitViolation),
                                 "129",  // SIGHUP, of `mayfly top`
                                 std::to_string(agent::kExitNoAgent),
                                 std::to_string(agent::kExitNotExecutable),
                                 std::to_string(agent::kExitNotFound)};
  for (const EndReason reason :
       {EndReason::Reset, EndReason::PowerOff, EndReason::GuestPanic, EndReason::TripleFault, EndReason::InternalError,
        EndReason::FailedEntry, EndReason::VcpuFailure, EndReason::Interrupted, EndReason::Terminated,
        EndReason::UserQuit, EndReason::HalfReverted})
    codes.insert(std::to_string(static_cast<int>(reason)));
  EXPECT_EQ(testing::manual_entries(testing::content_of(kPage)).at("EXIT STATUS"), codes);
}

}  // namespace
}  // namespace mayfly
