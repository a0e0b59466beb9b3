#include "api/schema.h"
#include "tests/unit/api/parsed_requests.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(NetworkJson, ReadsANetworkInterface) {
  const auto whole = command<PutNetworkInterface>("PUT", "/network-interfaces/eth0", R"({
      "iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:AC:10:00:02", "mtu": 9000,
      "check_source_mac": true, "rx_rate_limiter": {"bandwidth": {"size": 1, "refill_time": 2}},
      "tx_rate_limiter": {"ops": {"size": 3, "refill_time": 4, "one_time_burst": 5}}})");
  EXPECT_EQ(whole.value.iface_id, "eth0");
  EXPECT_EQ(whole.value.host_dev_name, "tap0");
  EXPECT_EQ(whole.value.guest_mac, (MacAddress{6, 0, 0xAC, 0x10, 0, 2}));
  EXPECT_EQ(whole.value.mtu, 9000);
  EXPECT_TRUE(whole.value.check_source_mac);
  ASSERT_TRUE(whole.value.rx_rate_limiter && whole.value.rx_rate_limiter->bandwidth);
  EXPECT_EQ(whole.value.rx_rate_limiter->bandwidth->size, 1U);
  EXPECT_FALSE(whole.value.rx_rate_limiter->ops);
  ASSERT_TRUE(whole.value.tx_rate_limiter && whole.value.tx_rate_limiter->ops);
  EXPECT_EQ(whole.value.tx_rate_limiter->ops->one_time_burst, 5U);
  const auto least =
      command<PutNetworkInterface>("PUT", "/network-interfaces/1", R"({"iface_id": "1", "host_dev_name": "t"})");
  EXPECT_EQ(least.value.guest_mac, std::nullopt);
  EXPECT_EQ(least.value.mtu, std::nullopt);
  EXPECT_FALSE(least.value.check_source_mac);
  EXPECT_FALSE(least.value.rx_rate_limiter);
  EXPECT_FALSE(least.value.tx_rate_limiter);
  EXPECT_EQ(command<PutNetworkInterface>("PUT", "/network-interfaces/1", R"({"iface_id": "1"})").value.host_dev_name,
            "");
}

TEST(NetworkJson, RefusesABadNetworkInterface) {
  const auto refused = [](std::string_view field) {
    return refusal("PUT", "/network-interfaces/n",
                   fmt::format(R"({{"iface_id": "n", "host_dev_name": "tap0", {}}})", field));
  };
  EXPECT_EQ(refusal("PUT", "/network-interfaces/n", R"({"host_dev_name": "tap0"})"),
            R"(network-interfaces/n needs the field "iface_id")");
  EXPECT_EQ(refusal("PUT", "/network-interfaces/n", R"({"iface_id": "n", "host_dev_name": ""})"),
            "network-interfaces/n.host_dev_name must be the name of a TAP interface, 1 to 15 bytes without \"/\", "
            "\":\", \"%\" and blanks, not the string \"\"");
  EXPECT_EQ(refusal("PUT", "/network-interfaces/n", R"({"iface_id": "n", "host_dev_name": "/dev/net/tun"})"),
            "network-interfaces/n.host_dev_name must be the name of a TAP interface, 1 to 15 bytes without \"/\", "
            "\":\", \"%\" and blanks, not the string \"/dev/net/tun\"");
  for (const std::string_view mac : {"06:00:ac:10:00", "01:00:5e:00:00:01", "00:00:00:00:00:00"}) {
    const std::string message = refused(fmt::format(R"("guest_mac": "{}")", mac));
    EXPECT_TRUE(message.starts_with("network-interfaces/n.guest_mac: ")) << message;
    EXPECT_NE(message.find(mac), std::string::npos) << message;
  }
  EXPECT_EQ(refused(R"("guest_mac": 6)"), "network-interfaces/n.guest_mac must be a string, not 6");
  EXPECT_EQ(refused(R"("mtu": 67)"), "network-interfaces/n.mtu must be from 68 to 65535, not 67");
  EXPECT_EQ(refused(R"("mtu": 65536)"), "network-interfaces/n.mtu must be from 68 to 65535, not 65536");
  EXPECT_EQ(refused(R"("mtu": "1500")"), R"(network-interfaces/n.mtu must be a whole number, not the string "1500")");
  EXPECT_EQ(refused(R"("check_source_mac": 1)"), "network-interfaces/n.check_source_mac must be true or false, not 1");
  EXPECT_EQ(refused(R"("rx_rate_limiter": [])"),
            "network-interfaces/n.rx_rate_limiter must be a JSON object, not an array");
  EXPECT_EQ(refused(R"("tx_rate_limiter": {"ops": {"size": 1, "refill_time": -2}})"),
            "network-interfaces/n.tx_rate_limiter.ops.refill_time must be from 0 to 9223372036854775807, not -2");
  EXPECT_EQ(refused(R"("allow_mmds_requests": true)"),
            "network-interfaces/n has no field \"allow_mmds_requests\"; its fields are iface_id, host_dev_name, "
            "guest_mac, mtu, check_source_mac, rx_rate_limiter, tx_rate_limiter");
}

TEST(NetworkJson, ReadsAPatchOfANetworkInterface) {
  const auto both = command<PatchNetworkInterface>(
      "PATCH", "/network-interfaces/n",
      R"({"iface_id": "n", "rx_rate_limiter": {}, "tx_rate_limiter": {"ops": {"size": 1, "refill_time": 2}}})");
  EXPECT_EQ(both.value.iface_id, "n");
  EXPECT_TRUE(both.value.rx_rate_limiter);
  EXPECT_EQ(both.value.tx_rate_limiter->ops->size, 1U);
  const auto none = command<PatchNetworkInterface>("PATCH", "/network-interfaces/n", R"({"iface_id": "n"})");
  EXPECT_FALSE(none.value.rx_rate_limiter);
  EXPECT_EQ(refusal("PATCH", "/network-interfaces/n", R"({"iface_id": "n", "host_dev_name": "tap1"})"),
            "network-interfaces/n has no field \"host_dev_name\"; its fields are iface_id, rx_rate_limiter, "
            "tx_rate_limiter");
}

}  // namespace
}  // namespace mayfly
