#pragma once

#include <unistd.h>

#include <gtest/gtest.h>

namespace mayfly::testing {

/// Skips the test, and says why, where guests cannot run.
class KvmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "/dev/kvm is missing or not permitted";
  }
};

}  // namespace mayfly::testing
