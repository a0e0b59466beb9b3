#include "vmm/doctor/host.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

class HostRootTest : public ::testing::Test {
 protected:
  HostRootTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "mayfly-root-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~HostRootTest() override { std::filesystem::remove_all(path_); }
  void put(std::string_view name, std::string_view text) const { std::ofstream{path_ / name} << text; }
  [[nodiscard]] HostRoot root() const { return HostRoot{path_}; }

 private:
  std::filesystem::path path_;
};

TEST_F(HostRootTest, ReadsAFileWithoutTheWhiteSpaceAtItsEnd) {
  put("setting", " 12 kB \n\n");
  EXPECT_EQ(root().read("setting"), " 12 kB");
  put("empty", "");
  EXPECT_EQ(root().read("empty"), "");
  EXPECT_EQ(root().read("absent"), std::nullopt);
}

TEST_F(HostRootTest, ReadsANumberAndNothingElseAsOne) {
  put("number", "-12\n");
  EXPECT_EQ(root().read_number("number"), -12);
  put("word", "twelve\n");
  EXPECT_EQ(root().read_number("word"), std::nullopt);
  EXPECT_EQ(root().read_number("absent"), std::nullopt);
}

TEST_F(HostRootTest, ReadsLittleMoreThanTheBoundOfAFile) {
  put("large", std::string(HostRoot::kMaximumFile + 100'000, 'x'));
  EXPECT_LT(root().read("large")->size(), HostRoot::kMaximumFile + 8192);
}

TEST_F(HostRootTest, ListsADirectoryInOrder) {
  put("b", "");
  put("a", "");
  EXPECT_EQ(root().list("."), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(root().list("absent").empty());
}

TEST(HasWord, FindsWholeWordsOnly) {
  EXPECT_TRUE(has_word("fpu svm\tsse", "svm"));
  EXPECT_TRUE(has_word("svm", "svm"));
  EXPECT_FALSE(has_word("svml xsvm", "svm"));
  EXPECT_FALSE(has_word("", "svm"));
  EXPECT_FALSE(has_word("  ", "svm"));
}

TEST(RealHostCalls, SayWhyADeviceCannotBeOpened) {
  EXPECT_EQ(real_host_calls().try_open("/nonexistent/device"), ENOENT);
  EXPECT_FALSE(real_host_calls().ask_kvm("/nonexistent/device", {}).has_value());
  EXPECT_EQ(real_host_calls().try_open("/dev/null"), 0);
}

}  // namespace
}  // namespace mayfly
