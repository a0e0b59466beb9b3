#include "jailer/seccomp/violation.h"

#include <asm/unistd.h>

#include <array>

#include <gtest/gtest.h>

namespace mayfly::seccomp {
namespace {

TEST(Violation, IsDescribedByNumberAndName) {
  std::array<char, 128> text;
  EXPECT_EQ(describe_violation(text, "loop", __NR_execve),
            "seccomp: thread loop called system call 59 (execve), which its filter does not allow");
  EXPECT_EQ(describe_violation(text, "vcpu", 1'000'000),
            "seccomp: thread vcpu called system call 1000000, which its filter does not allow");
  EXPECT_EQ(describe_violation(text, "vcpu", -1),
            "seccomp: thread vcpu called system call -1, which its filter does not allow");
}

TEST(Violation, ADescriptionStaysWithinItsRoom) {
  std::array<char, 10> text;
  EXPECT_EQ(describe_violation(text, "loop", 1), "seccomp: t");
}

TEST(Violation, CallsHaveTheirNames) {
  EXPECT_EQ(name_of_call(__NR_read), "read");  // 0, the first
  EXPECT_EQ(name_of_call(__NR_write), "write");
  EXPECT_EQ(name_of_call(__NR_clone3), "clone3");
  EXPECT_EQ(name_of_call(400), "");  // between the numbers of two generations
  EXPECT_EQ(name_of_call(1'000'000), "");
  EXPECT_EQ(name_of_call(-1), "");
}

}  // namespace
}  // namespace mayfly::seccomp
