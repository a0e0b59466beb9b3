#include "vmm/cli/override_options.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

std::string tap_refusal(const std::vector<std::string>& values) {
  const auto read = read_tap_overrides(values);
  return read ? "" : read.error().message;
}

std::string drive_refusal(const std::vector<std::string>& values) {
  const auto read = read_drive_overrides(values);
  return read ? "" : read.error().message;
}

TEST(OverrideOptions, AreIdsAndWhatTheyGet) {
  const auto taps = read_tap_overrides(std::vector<std::string>{"eth0=tap7", "e-1=t,mac=06:00:AC:10:00:02"});
  ASSERT_TRUE(taps) << taps.error().message;
  ASSERT_EQ(taps->size(), 2U);
  EXPECT_EQ((*taps)[0].iface_id, "eth0");
  EXPECT_EQ((*taps)[0].host_dev_name, "tap7");
  EXPECT_EQ((*taps)[0].guest_mac, std::nullopt);
  EXPECT_EQ((*taps)[1].host_dev_name, "t");
  EXPECT_EQ((*taps)[1].guest_mac, (MacAddress{0x06, 0x00, 0xAC, 0x10, 0x00, 0x02}));
  const auto drives = read_drive_overrides(std::vector<std::string>{"rootfs=/a=b,c"});
  ASSERT_TRUE(drives);
  EXPECT_EQ((*drives)[0].drive_id, "rootfs");
  EXPECT_EQ((*drives)[0].path_on_host, "/a=b,c");
  EXPECT_TRUE(read_drive_overrides({})->empty());
}

TEST(OverrideOptions, AnOverlayHasLayersBelow) {
  const std::vector<std::string> values = {"a=/o", "b=/copy"};
  const auto read = read_drive_overrides(values, std::vector<std::string>{"a=/base", "a=/layer"});
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ((*read)[0].base_paths, (std::vector<std::string>{"/base", "/layer"}));
  EXPECT_TRUE((*read)[1].base_paths.empty());
  const auto refusal = [&](const std::string& base) {
    const auto refused = read_drive_overrides(values, std::vector{base});
    return refused ? "" : refused.error().message;
  };
  EXPECT_EQ(refusal("c=/base"), "--base c=/base: give the overlay over it as well, by --drive c=PATH");
  EXPECT_EQ(refusal("a"), "--base a: give the device's id, \"=\" and what it gets, such as rootfs=rootfs.ext4");
}

TEST(OverrideOptions, SayWhatIsMissing) {
  EXPECT_EQ(tap_refusal({"eth0"}), "--tap eth0: give the device's id, \"=\" and what it gets, such as eth0=tap1");
  EXPECT_EQ(drive_refusal({"rootfs="}),
            "--drive rootfs=: give the device's id, \"=\" and what it gets, such as rootfs=copy.ext4");
  EXPECT_EQ(tap_refusal({"eth0=tap1,mac=06"}),
            "--tap eth0=tap1,mac=06: \"06\" is not a MAC address; one looks like aa:bb:cc:dd:ee:ff");
  EXPECT_EQ(tap_refusal({"=tap0"}), "--tap =tap0: the id must be 1 to 64 letters, digits, \"_\" and \"-\", not \"\"");
}

TEST(OverrideOptions, NameADeviceOnce) {
  EXPECT_EQ(drive_refusal({"a=1", "b=2", "a=3"}), "--drive a=3: a is named twice; name each device once");
}

TEST(OverrideOptions, ATapHasAnInterfacesName) {
  EXPECT_EQ(tap_refusal({"eth0=a/b"}),
            "--tap eth0=a/b: after the \"=\" must be the name of a TAP interface, 1 to 15 bytes without \"/\", \":\", "
            "\"%\" and blanks");
}

std::string channel_refusal(const std::vector<std::string>& values) {
  const auto read = read_channels(values);
  return read ? "" : read.error().message;
}

TEST(OverrideOptions, AChannelIsAPortAndASocketAndListensIfItSaysSo) {
  const auto read = read_channels(std::vector<std::string>{"1024=/run/a=b", "1025=/run/c,d,listen"});
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(*read, (std::vector<ChannelConfig>{{.port = 1024, .uds_path = "/run/a=b"},
                                               {.port = 1025, .uds_path = "/run/c,d", .listen = true}}));
  const auto overrides = read_channel_overrides(std::vector<std::string>{"1024=/run/other"});
  ASSERT_TRUE(overrides) << overrides.error().message;
  EXPECT_EQ(*overrides, (std::vector<ChannelOverride>{{.port = 1024, .uds_path = "/run/other"}}));
}

TEST(OverrideOptions, AChannelThatCannotBeIsRefused) {
  for (const char* const value : {"", "1024", "1024=", "0=/a", "80=/a", "65536=/a", "x=/a", "1024=,listen"})
    EXPECT_EQ(
        channel_refusal({value}),
        fmt::format("--channel {}: give a port from 1 to 65535 other than 80, \"=\" and the path of a Unix socket, "
                    "1 to 107 bytes, such as 1024=/run/agent.sock",
                    std::string_view{value} == "1024=,listen" ? "1024=" : value));
  EXPECT_EQ(channel_refusal({"1024=/a", "1024=/b,listen"}),
            "--channel 1024=/b,listen: 1024 is named twice; name each channel once");
}

}  // namespace
}  // namespace mayfly
