#include "vmm/cli/completion.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "vmm/cli/options.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <sstream>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

CommandTree whole_tree() {
  const std::array words = {"mayfly", "completion", "bash"};
  return std::get<CompletionOptions>(parse_options(static_cast<int>(words.size()), words.data())).commands;
}

const CommandTree& command(const CommandTree& tree, const std::string& name) {
  const auto found = std::ranges::find(tree.commands, name, &CommandTree::name);
  if (found == tree.commands.end()) testing::give_up("there is no command " + name);
  return *found;
}

const CommandOption& option(const CommandTree& tree, const std::string& name) {
  for (const CommandOption& each : tree.options)
    if (std::ranges::find(each.names, name) != each.names.end()) return each;
  testing::give_up("there is no option " + name);
}

TEST(CommandTreeTest, HasWhatTheHelpHas) {
  const CommandTree tree = whole_tree();
  EXPECT_EQ(tree.name, "mayfly");
  EXPECT_EQ(option(tree, "--no-api").value, "");
  EXPECT_EQ(option(tree, "--api-sock").value, "PATH");
  EXPECT_EQ(option(tree, "--http-api-max-payload-size").value, "UINT") << "without the rule of its values";
  const CommandTree& run = command(tree, "run");
  EXPECT_EQ(option(run, "--kernel").names, (std::vector<std::string>{"-k", "--kernel"}));
  EXPECT_EQ(option(run, "--kernel").value, "FILE");
  EXPECT_EQ(option(run, "--kernel").description, "ELF vmlinux or bzImage");
  EXPECT_FALSE(option(run, "--kernel").repeats);
  EXPECT_TRUE(option(run, "--drive").repeats);
  EXPECT_EQ(option(run, "--huge-pages").value, "none|transparent|2M");
  EXPECT_EQ(option(run, "--drive").description.find('\n'), std::string::npos);
  const CommandTree& create = command(command(tree, "snapshot"), "create");
  EXPECT_TRUE(option(create, "machine").is_positional);
  EXPECT_EQ(option(create, "machine").value, "ID|PID|SOCKET");
}

/// What bash offers behind these words, of which the last is not yet whole; "FILES" where it offers files.
std::string offered(const std::string& words) {
  const testing::ScratchDirectory scratch;
  const std::string program = completion_script(Shell::Bash, whole_tree()) +
                              "mayfly() { printf 'ID PID\\nvm-1 4711\\n  vm-2 4712\\n    other 1\\n'; }\n"
                              "compopt() { COMPREPLY+=(FILES); }\n"
                              "COMP_WORDS=(" +
                              words +
                              ") COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
                              "_mayfly mayfly\n"
                              "printf '%s\\n' \"${COMPREPLY[*]}\"\n";
  testing::Pipe out;
  testing::ChildProcess bash{{"/bin/bash", testing::make_file(scratch.file("script"), program)},
                             {.out = out.write.get(), .err = out.write.get()}};
  out.write.reset();
  std::string text;
  testing::read_until(out.read.get(), text, "");
  EXPECT_EQ(bash.wait(), 0);
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

class BashCompletion : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/bin/bash", X_OK) != 0) GTEST_SKIP() << "/bin/bash is missing";
  }
};

TEST_F(BashCompletion, OffersCommandsAndOptionsOfThePlace) {
  EXPECT_EQ(offered("mayfly sn"), "snapshot");
  EXPECT_EQ(offered("mayfly --conf"), "--config-file");
  EXPECT_EQ(offered("mayfly snapshot ''"), "create merge verify describe sweep -h --help");
  EXPECT_EQ(offered("mayfly snapshot merge --o"), "--output");
  EXPECT_EQ(offered("mayfly run --ker"), "--kernel");
  EXPECT_EQ(offered("mayfly doctor --conf"), "");
}

TEST_F(BashCompletion, OffersWhatAnOptionTakes) {
  EXPECT_EQ(offered("mayfly run --kernel ''"), "FILES");
  EXPECT_EQ(offered("mayfly run --huge-pages t"), "transparent");
  EXPECT_EQ(offered("mayfly run --huge-pages = t"), "transparent") << "--huge-pages=t, as bash takes it apart";
  EXPECT_EQ(offered("mayfly run --huge-pages ="), "none transparent 2M");
  EXPECT_EQ(offered("mayfly --level D"), "Debug");
  EXPECT_EQ(offered("mayfly --id ''"), "") << "a name is to be made up";
  EXPECT_EQ(offered("mayfly completion ''"), "bash fish zsh");
}

TEST_F(BashCompletion, DoesNotTakeValuesForCommands) {
  EXPECT_EQ(offered("mayfly --id run --conf"), "--config-file");
  EXPECT_EQ(offered("mayfly run --kernel = snapshot --init"), "--initrd");
  EXPECT_EQ(offered("mayfly run --kernel=snapshot --init"), "--initrd");
}

TEST_F(BashCompletion, OffersTheMachinesOfThisHost) {
  EXPECT_EQ(offered("mayfly pause vm"), "vm-1 vm-2 FILES") << "or a socket's path";
  EXPECT_EQ(offered("mayfly stop --timeout 5 o"), "other FILES");
  EXPECT_EQ(offered("mayfly resume ''"), "vm-1 vm-2 other FILES") << "children, too, which are indented";
  EXPECT_EQ(offered("mayfly exec ''"), "vm-1 vm-2 other FILES");
  EXPECT_EQ(offered("mayfly down o"), "other FILES");
  EXPECT_EQ(offered("mayfly up --id ''"), "") << "a name is to be made up";
  EXPECT_EQ(offered("mayfly stop --n"), "--now");
  EXPECT_EQ(offered("mayfly snapshot create vm-1 --sta"), "--state");
}

TEST_F(BashCompletion, OffersFilesWhereFilesAndDirectoriesAreNamed) {
  for (const char* const words : {"cp", "up", "snapshot sweep", "up --run-dir", "drive info"})
    EXPECT_EQ(offered(std::string{"mayfly "} + words + " ''"), "FILES") << words;
  EXPECT_EQ(offered("mayfly exec --cwd ''"), "") << "it is the guest's";
}

TEST(Completion, NumbersThePositionalArgumentsOfZsh) {
  const std::string zsh = completion_script(Shell::Zsh, whole_tree());
  const auto function = [&](const std::string& name) {
    const std::size_t begin = zsh.find(name + "() {\n");
    return zsh.substr(begin, zsh.find("\n}\n", begin) - begin);
  };
  EXPECT_NE(function("_mayfly_cp").find(R"('1:\[ID\:\]PATH:_files')"), std::string::npos) << function("_mayfly_cp");
  EXPECT_NE(function("_mayfly_cp").find(R"('2:\[ID\:\]PATH:_files')"), std::string::npos) << function("_mayfly_cp");
  EXPECT_NE(function("_mayfly_drive_info").find("'*:FILE...:_files'"), std::string::npos);
  EXPECT_NE(function("_mayfly_exec").find("'1:ID|PID -- COMMAND...:_mayfly_machines'"), std::string::npos);
}

TEST(Completion, NamesEverythingForEachShell) {
  const CommandTree tree = whole_tree();
  const std::string zsh = completion_script(Shell::Zsh, tree);
  EXPECT_TRUE(zsh.starts_with("#compdef mayfly\n"));
  EXPECT_NE(zsh.find("'(-k --kernel)'{-k+,--kernel=}'[ELF vmlinux or bzImage]:FILE:_files'"), std::string::npos) << zsh;
  EXPECT_NE(zsh.find("'*'{-d+,--drive=}'["), std::string::npos);
  EXPECT_NE(zsh.find("'(--no-api)'--no-api'[Serve no API; needs --config-file]'"), std::string::npos);
  EXPECT_NE(zsh.find("_mayfly_snapshot_create() {"), std::string::npos);
  EXPECT_NE(zsh.find("'1:ID|PID|SOCKET:_mayfly_machines'"), std::string::npos);
  EXPECT_NE(zsh.find("'stop:Ask a machine'\\''s guest to shut down, and wait'"), std::string::npos);
  const std::string fish = completion_script(Shell::Fish, tree);
  EXPECT_NE(fish.find("complete -c mayfly -n '__fish_use_subcommand' -a ps -d 'List the machines of this host'\n"),
            std::string::npos);
  EXPECT_NE(fish.find("complete -c mayfly -n '__fish_seen_subcommand_from run' -s k -l kernel -r -F -d 'ELF vmlinux or "
                      "bzImage'\n"),
            std::string::npos);
  EXPECT_NE(fish.find("'__fish_seen_subcommand_from snapshot; and not __fish_seen_subcommand_from create merge verify "
                      "describe sweep' -a merge "),
            std::string::npos);
  EXPECT_NE(fish.find("'__fish_seen_subcommand_from snapshot; and __fish_seen_subcommand_from create' -x -a "
                      "'(__mayfly_machines)'"),
            std::string::npos);
}

}  // namespace
}  // namespace mayfly
