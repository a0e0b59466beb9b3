#include "vmm/machine/configured_channels.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "vmm/base/unix_socket.h"

#include <sys/socket.h>

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

class ConfiguredChannelsTest : public ::testing::Test {
 protected:
  [[nodiscard]] bool listens(const std::string& path) const {
    const OwnedFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    const sockaddr_un address = unix_address(path);
    return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  [[nodiscard]] std::string refusal(ChannelConfig channel) {
    const auto put = channels_.put(std::move(channel));
    return put ? "" : put.error().message;
  }

  testing::ScratchDirectory scratch_;
  std::string a_ = scratch_.file("a");
  std::string b_ = scratch_.file("b");
  ConfiguredChannels channels_;
};

TEST_F(ConfiguredChannelsTest, OneThatListensIsBoundAtOnceAndRemovedAtTheEnd) {
  EXPECT_EQ(refusal({.port = 2, .uds_path = a_, .listen = true}), "");
  EXPECT_EQ(refusal({.port = 1, .uds_path = b_}), "");
  EXPECT_TRUE(listens(a_));
  EXPECT_FALSE(std::filesystem::exists(b_));
  EXPECT_EQ(channels_.all(),
            (std::vector<ChannelConfig>{{.port = 1, .uds_path = b_}, {.port = 2, .uds_path = a_, .listen = true}}));
  auto plans = channels_.plans();
  ASSERT_EQ(plans.size(), 2U);
  EXPECT_EQ(plans[0].listener, nullptr);
  ASSERT_NE(plans[1].listener, nullptr);
  channels_ = {};
  EXPECT_TRUE(listens(a_));  // the machine has it
  plans.clear();
  EXPECT_FALSE(std::filesystem::exists(a_));
}

TEST_F(ConfiguredChannelsTest, AnotherOfTheSamePortTakesItsPlace) {
  EXPECT_EQ(refusal({.port = 1, .uds_path = a_, .listen = true}), "");
  EXPECT_EQ(refusal({.port = 1, .uds_path = a_, .listen = true}), "");
  EXPECT_TRUE(listens(a_));
  EXPECT_EQ(refusal({.port = 1, .uds_path = b_, .listen = true}), "");
  EXPECT_FALSE(std::filesystem::exists(a_));
  EXPECT_TRUE(listens(b_));
  EXPECT_EQ(refusal({.port = 1, .uds_path = b_}), "");
  EXPECT_FALSE(std::filesystem::exists(b_));
  EXPECT_EQ(channels_.all().size(), 1U);
}

TEST_F(ConfiguredChannelsTest, ARefusalNamesTheChannelAndChangesNothing) {
  EXPECT_EQ(refusal({.port = 1, .uds_path = a_, .listen = true}), "");
  EXPECT_EQ(refusal({.port = 2, .uds_path = a_, .listen = true}),
            "channel 2: uds_path " + a_ + " is that of channel 1; give each its own");
  testing::make_file(b_, "");
  EXPECT_EQ(refusal({.port = 1, .uds_path = b_, .listen = true}),
            "channel 1: cannot make its socket " + b_ + ": a file that is no socket is there; choose another path");
  EXPECT_TRUE(listens(a_));
  EXPECT_EQ(channels_.all().size(), 1U);
}

TEST_F(ConfiguredChannelsTest, AMachineHasAsManyAsItHasRoomFor) {
  for (std::uint16_t port = 1; port <= kMostChannels; ++port) EXPECT_EQ(refusal({.port = port, .uds_path = a_}), "");
  EXPECT_EQ(refusal({.port = 1000, .uds_path = a_}),
            "channel 1000: there are 64 channels already, and a machine has no room for more");
  EXPECT_EQ(refusal({.port = 64, .uds_path = b_}), "");
}

TEST_F(ConfiguredChannelsTest, ACloneListensAtItsOwnSocketAndIsToldHowToHaveOne) {
  const std::vector<ChannelConfig> of_snapshot = {{.port = 1, .uds_path = a_, .listen = true},
                                                  {.port = 2, .uds_path = "/shared"}};
  EXPECT_EQ(refusal(of_snapshot[0]), "");
  ConfiguredChannels clone;
  const auto refused = clone.load(of_snapshot, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "channel 1: cannot make its socket " + a_ +
                                         ": another process is listening there; choose another path or stop it; or "
                                         "name another by channel_overrides");
  const std::vector<ChannelOverride> overrides = {{.port = 1, .uds_path = b_}};
  ConfiguredChannels other;
  EXPECT_TRUE(other.load(of_snapshot, overrides));
  EXPECT_TRUE(listens(b_));
  EXPECT_EQ(other.all()[1].uds_path, "/shared");
  const std::vector<ChannelOverride> unknown = {{.port = 3, .uds_path = b_}};
  ConfiguredChannels third;
  EXPECT_EQ(third.load(of_snapshot, unknown).error().message, "channel_overrides: the snapshot has no channel 3");
}

}  // namespace
}  // namespace mayfly
