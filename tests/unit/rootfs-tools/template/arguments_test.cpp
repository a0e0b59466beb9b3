#include "rootfs-tools/template/arguments.h"

#include "tests/support/files.h"
#include "tests/support/manual_page.h"

#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

Result<Invocation> parse_template(std::vector<const char*> words) {
  words.insert(words.begin(), "mayfly-template");
  return parse_template_arguments(static_cast<int>(words.size()), words.data(), {"/programs", "/others"});
}

Result<Invocation> parse_base(std::vector<const char*> words) {
  words.insert(words.begin(), {"base", "--image", "i", "--output", "o"});
  return parse_template(words);
}

std::string refusal_of_template(const Result<Invocation>& invocation) {
  return invocation ? "" : invocation.error().message;
}

TEST(TemplateArguments, OrderABase) {
  const auto invocation =
      parse_base({"--config", "c", "--run-file", "r", "--name", "app:1", "--platform", "linux/arm64/v8", "--max-size",
                  "2G", "--max-files", "10", "--max-layers", "11", "--max-ratio", "12", "--max-metadata", "4M"});
  ASSERT_TRUE(invocation) << invocation.error().message;
  const auto& order = std::get<BaseOrder>(*invocation);
  EXPECT_EQ(order.image, "i");
  EXPECT_EQ(order.output, "o");
  EXPECT_EQ(order.config, "c");
  EXPECT_EQ(order.run_file, "r");
  EXPECT_EQ(order.name, "app:1");
  EXPECT_EQ(to_text(order.platform), "linux/arm64/v8");
  EXPECT_EQ(order.limits.max_bytes, std::uint64_t{2} << 30);
  EXPECT_EQ(order.limits.max_files, 10U);
  EXPECT_EQ(order.limits.max_layers, 11U);
  EXPECT_EQ(order.limits.max_ratio, 12U);
  EXPECT_EQ(order.limits.max_metadata_bytes, std::uint64_t{4} << 20);
}

TEST(TemplateArguments, HaveDefaultsThatHelpTells) {
  const auto invocation = parse_base({});
  const auto& order = std::get<BaseOrder>(invocation.value());
  EXPECT_EQ(order.config, std::nullopt);
  EXPECT_EQ(order.run_file, std::nullopt);
  EXPECT_EQ(order.name, std::nullopt);
  EXPECT_EQ(to_text(order.platform), "linux/amd64");
  const std::string help = std::get<PrintText>(parse_base({"--help"}).value()).text;
  EXPECT_TRUE(help.contains(fmt::format("(default: {}G)", order.limits.max_bytes >> 30)));
  EXPECT_TRUE(help.contains(fmt::format("(default: {})", order.limits.max_files)));
  EXPECT_TRUE(help.contains(fmt::format("(default: {})", order.limits.max_layers)));
  EXPECT_TRUE(help.contains(fmt::format("(default: {})", order.limits.max_ratio)));
  EXPECT_TRUE(help.contains(fmt::format("(default: {}M)", order.limits.max_metadata_bytes >> 20)));
  EXPECT_TRUE(help.contains("(default: linux/amd64)"));
}

TEST(TemplateArguments, HelpHasEightyColumns) {
  for (const auto& words :
       {std::vector<const char*>{"--help"}, {"base", "--help"}, {"build", "--help"}, {"verify", "--help"}}) {
    const std::string help = std::get<PrintText>(parse_template(words).value()).text;
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = help.find('\n', begin)) != std::string::npos; begin = end + 1)
      EXPECT_LE(end - begin, 80U) << help.substr(begin, end - begin);
  }
  EXPECT_EQ(std::get<PrintText>(parse_template({"--version"}).value()).text, "mayfly-template v" MAYFLY_VERSION "\n");
}

TEST(TemplateArguments, RefusalsNameTheOption) {
  EXPECT_EQ(refusal_of_template(parse_base({"--max-size", "12X"})),
            "--max-size '12X' must be a number of bytes up to 1024T, such as 512M or 16G");
  EXPECT_EQ(refusal_of_template(parse_base({"--platform", "amd64"})),
            "--platform 'amd64' must be OS/ARCHITECTURE, such as linux/amd64");
  EXPECT_EQ(refusal_of_template(parse_base({"--name", ""})),
            "--name must not be empty; see mayfly-template base --help");
  EXPECT_TRUE(refusal_of_template(parse_base({"--max-files", "0"})).contains("--max-files"));
  EXPECT_TRUE(refusal_of_template(parse_template({"base"})).contains("--image is required"));
  EXPECT_TRUE(refusal_of_template(parse_template({"base", "--image", "i"})).contains("--output is required"));
  EXPECT_NE(refusal_of_template(parse_template({})), "");
  EXPECT_NE(refusal_of_template(parse_template({"other"})), "");
}

Result<Invocation> parse_build(std::vector<const char*> words) {
  words.insert(words.begin(), {"build", "--image", "i", "--output", "o"});
  return parse_template(words);
}

TEST(TemplateArguments, OrderABuild) {
  const auto invocation = parse_build(
      {"--cpus",     "2", "--memory", "512",   "--disk",      "2G",  "--ready-port", "8080", "--warm-up", "/a?b",
       "--patience", "9", "--kernel", "k",     "--append",    "x y", "--init",       "n",    "--agent",   "a",
       "--monitor",  "m", "--name",   "app:1", "--max-files", "10",  "--rest",       "7"});
  ASSERT_TRUE(invocation) << invocation.error().message;
  const auto& order = std::get<BuildOrder>(*invocation);
  EXPECT_EQ(order.base.image, "i");
  EXPECT_EQ(order.base.name, "app:1");
  EXPECT_EQ(order.base.limits.max_files, 10U);
  EXPECT_EQ(order.output, "o");
  EXPECT_EQ(order.vcpus, 2U);
  EXPECT_EQ(order.memory_mib, 512U);
  EXPECT_EQ(order.layer_bytes, std::uint64_t{2} << 30);
  EXPECT_EQ(order.ready_port, 8080);
  EXPECT_EQ(order.warm_up, "/a?b");
  EXPECT_EQ(order.patience, std::chrono::seconds{9});
  EXPECT_EQ(order.rest, std::chrono::seconds{7});
  EXPECT_EQ(order.kernel + order.init + order.agent + order.monitor, "knam");
  EXPECT_EQ(order.more_arguments, "x y");
}

TEST(TemplateArguments, ABuildFindsItsPrograms) {
  const auto invocation = parse_build({});
  ASSERT_TRUE(invocation) << invocation.error().message;
  const auto& order = std::get<BuildOrder>(*invocation);
  EXPECT_EQ(order.kernel, "/programs/vmlinux");
  EXPECT_EQ(order.agent, "/programs/mayfly-guest-agent");
  EXPECT_EQ(order.ready_port, std::nullopt);
  EXPECT_EQ(order.rest, std::chrono::seconds{5});
  EXPECT_EQ(std::get<BuildOrder>(parse_build({"--ready-port", "none"}).value()).ready_port, 0);
}

TEST(TemplateArguments, RefusalsOfABuildNameTheOption) {
  EXPECT_EQ(refusal_of_template(parse_build({"--ready-port", "0"})),
            "--ready-port '0' must be a port from 1 to 65535, or none");
  EXPECT_EQ(refusal_of_template(parse_build({"--warm-up", "x"})),
            "--warm-up 'x' must be a path such as /, without blanks");
  EXPECT_NE(refusal_of_template(parse_build({"--warm-up", "/\r\nX: y"})), "");
  EXPECT_EQ(refusal_of_template(parse_build({"--kernel", ""})),
            "--kernel must not be empty; see mayfly-template build --help");
  EXPECT_TRUE(refusal_of_template(parse_build({"--cpus", "33"})).contains("--cpus"));
  EXPECT_TRUE(refusal_of_template(parse_template({"build", "--image", "i"})).contains("--output is required"));
}

TEST(TemplateArguments, OrderAVerification) {
  const auto invocation = parse_template({"verify", "app.template"});
  ASSERT_TRUE(invocation) << invocation.error().message;
  EXPECT_EQ(std::get<VerifyOrder>(*invocation).directory, "app.template");
  EXPECT_EQ(refusal_of_template(parse_template({"verify"})),
            "template is required (see mayfly-template verify --help)");
}

TEST(TemplateArguments, BytesHaveUnits) {
  EXPECT_EQ(parse_bytes("--x", "1").value(), 1U);
  EXPECT_EQ(parse_bytes("--x", "3K").value(), 3U << 10);
  EXPECT_EQ(parse_bytes("--x", "1024T").value(), std::uint64_t{1} << 50);
  for (const char* const wrong : {"", "K", "0", "-1", "1.5G", "1025T", "18446744073709551616", "1k", "1GB"})
    EXPECT_FALSE(parse_bytes("--x", wrong)) << wrong;
}

TEST(TemplateManual, HasEachOptionAndNoOther) {
  const auto page = mayfly::testing::manual_entries(
      mayfly::testing::content_of(mayfly::testing::project_file("rootfs-tools/template/mayfly-template.1")));
  const auto options_of = [](const std::vector<const char*>& words) {
    return mayfly::testing::options_of_help(std::get<PrintText>(parse_template(words).value()).text);
  };
  EXPECT_EQ(page.at("mayfly-template"), options_of({"--help"}));
  std::set<std::string> base = options_of({"base", "--help"});
  ASSERT_TRUE(base.contains("--max-ratio"));
  base.erase("-h");
  base.erase("--help");
  EXPECT_EQ(page.at("mayfly-template base"), base);
  std::set<std::string> build = options_of({"build", "--help"});
  build.erase("-h");
  build.erase("--help");
  // What both have is described once.
  for (const std::string& option : base)
    if (option != "--image" && option != "--output") build.erase(option);
  build.erase("--image");
  EXPECT_EQ(page.at("mayfly-template build"), build);
  std::set<std::string> verify = options_of({"verify", "--help"});
  verify.erase("-h");
  verify.erase("--help");
  verify.insert("template");
  EXPECT_EQ(page.at("mayfly-template verify"), verify);
  EXPECT_EQ(page.at("EXIT STATUS"), (std::set<std::string>{"0", "1"}));
}

}  // namespace
}  // namespace mayfly::image
