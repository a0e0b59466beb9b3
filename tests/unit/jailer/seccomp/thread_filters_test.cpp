#include "jailer/seccomp/thread_filters.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

namespace mayfly::seccomp {
namespace {

std::string file_refusal_of(const std::string& file) {
  const auto filters = ThreadFilters::open({.off = false, .file = file});
  return filters ? "" : filters.error().message;
}

TEST(ThreadFilters, TheBuiltInOnesAreThere) { EXPECT_TRUE(ThreadFilters::open({})); }

/// What this thread has, its own and those that it was born with.
std::string filters_of_thread() {
  const std::string status = mayfly::testing::content_of("/proc/thread-self/status");
  const std::size_t at = status.find("Seccomp_filters:");
  return at == std::string::npos ? "" : status.substr(at, status.find('\n', at) - at);
}

TEST(ThreadFilters, WithoutFiltersNothingIsDone) {
  const auto filters = ThreadFilters::open({.off = true});
  ASSERT_TRUE(filters);
  const std::string before = filters_of_thread();
  ASSERT_NE(before, "");
  EXPECT_TRUE(filters->enter(ThreadKind::Loop));
  EXPECT_EQ(filters_of_thread(), before);
}

TEST(ThreadFilters, AFileThatIsNoneIsNamed) {
  const mayfly::testing::ScratchDirectory scratch;
  EXPECT_EQ(file_refusal_of(scratch.file("none")),
            "--seccomp-filter " + scratch.file("none") + " cannot be opened: No such file or directory (ENOENT)");
  const std::string text = mayfly::testing::make_file(scratch.file("text"), "[loop]\nread\n");
  EXPECT_EQ(
      file_refusal_of(text),
      "--seccomp-filter " + text + ": these are no compiled filters; make it with mayfly-seccompile of this version");
  EXPECT_NE(file_refusal_of("/dev/zero").find("--seccomp-filter /dev/zero has over "), std::string::npos);
  EXPECT_NE(file_refusal_of(scratch.file(".")).find("cannot be read: Is a directory"), std::string::npos);
}

}  // namespace
}  // namespace mayfly::seccomp
