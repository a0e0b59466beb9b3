#include "jailer/arguments.h"
#include "tests/support/files.h"
#include "tests/support/manual_page.h"

#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly::jailer {
namespace {

const std::string kPage = mayfly::testing::project_file("jailer/mayfly-jailer.1");

/// The options that these words and --help print.
std::set<std::string> options_of(std::vector<const char*> words) {
  words.insert(words.begin(), "mayfly-jailer");
  words.push_back("--help");
  const auto answer = parse_jailer_arguments(static_cast<int>(words.size()), words.data());
  return mayfly::testing::options_of_help(std::get<PrintText>(answer.value()).text);
}

TEST(JailerManual, HasEachOptionAndNoOther) {
  const auto page = mayfly::testing::manual_entries(mayfly::testing::content_of(kPage));
  const std::set<std::string> jail = options_of({});
  ASSERT_TRUE(jail.contains("--chroot-base-dir"));
  EXPECT_EQ(page.at("mayfly-jailer"), jail);
  std::set<std::string> cleanup = options_of({"cleanup"});
  ASSERT_TRUE(cleanup.contains("--exec-file"));
  cleanup.erase("-h");
  cleanup.erase("--help");
  cleanup.insert("id");
  EXPECT_EQ(page.at("mayfly-jailer cleanup"), cleanup);
  EXPECT_EQ(page.at("EXIT STATUS"), (std::set<std::string>{"0", "1"}));
}

}  // namespace
}  // namespace mayfly::jailer
