#include "snapshot/host_cpu.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint32_t word(const char (&letters)[5]) {
  std::uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(letters[i]);
  return value;
}

TEST(HostCpu, IsWhatTheProcessorSaysOfItself) {
  const HostCpu intel = host_cpu_of(word("Genu"), word("ineI"), word("ntel"), 0x0008'06F8);
  EXPECT_EQ(intel, (HostCpu{.vendor = "GenuineIntel", .family = 6, .model = 0x8F, .stepping = 8}));
  const HostCpu amd = host_cpu_of(word("Auth"), word("enti"), word("cAMD"), 0x00A1'0F11);
  EXPECT_EQ(amd, (HostCpu{.vendor = "AuthenticAMD", .family = 0x19, .model = 0x11, .stepping = 1}));
}

TEST(HostCpu, TheExtendedModelCountsInTwoFamiliesOnly) {
  EXPECT_EQ(host_cpu_of(0, 0, 0, 0x000F'0543).family, 5U);
  EXPECT_EQ(host_cpu_of(0, 0, 0, 0x000F'0543).model, 4U);
}

TEST(HostCpu, ThisOneFitsItself) {
  EXPECT_EQ(this_host_cpu().vendor.size(), 12U);
  EXPECT_NE(this_host_cpu().kernel.find('#'), std::string::npos) << this_host_cpu().kernel;
  EXPECT_TRUE(check_host_cpu(this_host_cpu(), this_host_cpu()));
}

TEST(HostCpu, AnotherVendorIsRefusedAndAnotherModelIsNot) {
  const HostCpu here{.vendor = "GenuineIntel", .family = 6, .model = 0x8F, .stepping = 8};
  EXPECT_TRUE(check_host_cpu({.vendor = "GenuineIntel", .family = 6, .model = 0x8F, .stepping = 4}, here));
  EXPECT_TRUE(check_host_cpu({.vendor = "GenuineIntel", .family = 6, .model = 0x6A, .stepping = 6}, here));
  const auto checked = check_host_cpu({.vendor = "AuthenticAMD", .family = 0x19, .model = 0x11, .stepping = 1}, here);
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().kind, ErrorKind::Unsupported);
  EXPECT_EQ(checked.error().message,
            "the snapshot's processor is of AuthenticAMD, and this host's of GenuineIntel: registers and features of "
            "the two differ; restore it on a host of AuthenticAMD");
}

TEST(HostCpu, HostsAreOfOneKindByModelAndKernel) {
  const HostCpu here{.vendor = "GenuineIntel", .family = 6, .model = 0x8F, .stepping = 8, .kernel = "6.12.1 #1 SMP"};
  const auto is_same = [&](auto change) {
    HostCpu saved = here;
    change(saved);
    return is_same_host_kind(saved, here);
  };
  EXPECT_TRUE(is_same([](HostCpu& saved) { saved.stepping = 4; }));
  EXPECT_FALSE(is_same([](HostCpu& saved) { saved.vendor = "AuthenticAMD"; }));
  EXPECT_FALSE(is_same([](HostCpu& saved) { saved.family = 7; }));
  EXPECT_FALSE(is_same([](HostCpu& saved) { saved.model = 0x6A; }));
  EXPECT_FALSE(is_same([](HostCpu& saved) { saved.kernel = "6.12.1 #2 SMP"; }));
  EXPECT_FALSE(is_same_host_kind({}, {})) << "kernels that are not known";
}

}  // namespace
}  // namespace mayfly
