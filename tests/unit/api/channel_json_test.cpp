#include "api/config_file.h"
#include "api/responses.h"
#include "api/schema.h"
#include "tests/unit/api/parsed_requests.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(ChannelJson, ReadsAChannelAndWritesItBack) {
  const auto whole =
      command<PutChannel>("PUT", "/channels/1024", R"({"port": 1024, "uds_path": "/run/a", "listen": true})");
  EXPECT_EQ(whole.value, (ChannelConfig{.port = 1024, .uds_path = "/run/a", .listen = true}));
  const auto least = command<PutChannel>("PUT", "/channels/1", R"({"port": 1, "uds_path": "b"})");
  EXPECT_EQ(least.value, (ChannelConfig{.port = 1, .uds_path = "b"}));
  for (const ChannelConfig& channel : {whole.value, least.value}) {
    JsonWriter json;
    write_channel(json, channel);
    const auto again = parse_json(std::move(json).take(), "it");
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(read_channel(*again, "it").value(), channel);
  }
}

TEST(ChannelJson, RefusesABadChannel) {
  const auto refused = [](std::string_view body) { return refusal("PUT", "/channels/1024", body); };
  EXPECT_EQ(refused(R"({"port": 80, "uds_path": "/a"})"),
            "channels/1024.port must be another than 80, where metadata are served");
  EXPECT_EQ(refused(R"({"port": 0, "uds_path": "/a"})"), "channels/1024.port must be from 1 to 65535, not 0");
  EXPECT_EQ(refused(R"({"port": 1025, "uds_path": "/a"})"),
            R"(channels/1024.port is "1025", but the path says "1024": they must be the same)");
  EXPECT_EQ(refused(R"({"port": 1024, "uds_path": ""})"),
            R"(channels/1024.uds_path must be the path of a Unix socket, 1 to 107 bytes, not the string "")");
  EXPECT_EQ(refused(R"({"port": 1024})"), R"(channels/1024 needs the field "uds_path")");
  EXPECT_EQ(refused(R"({"port": 1024, "uds_path": "/a", "listen": 1})"),
            "channels/1024.listen must be true or false, not 1");
}

TEST(ChannelJson, AConfigurationHasSeveralEachOnce) {
  const auto commands = config_commands(R"({"boot-source": {"kernel_image_path": "/k"}, "channels": [
      {"port": 1024, "uds_path": "/a"}, {"port": 1025, "uds_path": "/b", "listen": true}]})");
  ASSERT_TRUE(commands) << commands.error().message;
  std::vector<ChannelConfig> channels;
  for (const Command& each : *commands)
    if (const auto* const put = std::get_if<PutChannel>(&each)) channels.push_back(put->value);
  EXPECT_EQ(channels, (std::vector<ChannelConfig>{{.port = 1024, .uds_path = "/a"},
                                                  {.port = 1025, .uds_path = "/b", .listen = true}}));
  const auto twice = config_commands(R"({"boot-source": {"kernel_image_path": "/k"}, "channels": [
      {"port": 1024, "uds_path": "/a"}, {"port": 1024, "uds_path": "/b"}]})");
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().message, R"(channels[1]: the id "1024" is there twice; give each its own)");
}

TEST(ChannelJson, AnOverrideNamesAnotherSocketAndNothingElse) {
  const auto load = command<LoadSnapshot>("PUT", "/snapshot/load", R"({"snapshot_path": "/s", "mem_file_path": "/m",
      "channel_overrides": [{"port": 1024, "uds_path": "/a"}, {"port": 1025, "uds_path": "/b"}]})");
  EXPECT_EQ(load.value.channel_overrides,
            (std::vector<ChannelOverride>{{.port = 1024, .uds_path = "/a"}, {.port = 1025, .uds_path = "/b"}}));
  const auto refused = [](std::string_view overrides) {
    return refusal(
        "PUT", "/snapshot/load",
        fmt::format(R"({{"snapshot_path": "/s", "mem_file_path": "/m", "channel_overrides": {}}})", overrides));
  };
  EXPECT_EQ(refused(R"([{"port": 1024, "uds_path": "/a"}, {"port": 1024, "uds_path": "/b"}])"),
            "snapshot/load.channel_overrides[1] is for 1024 once more; name each channel once");
  EXPECT_EQ(refused(R"([{"port": 1024, "uds_path": "/a", "listen": true}])"),
            R"(snapshot/load.channel_overrides[0] has no field "listen"; its fields are port, uds_path)");
}

}  // namespace
}  // namespace mayfly
