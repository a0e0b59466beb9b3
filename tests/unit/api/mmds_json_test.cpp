#include "api/config_file.h"
#include "api/responses.h"
#include "api/schema.h"
#include "tests/unit/api/parsed_requests.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(MmdsJson, ReadsAConfiguration) {
  const auto whole = command<PutMmdsConfig>("PUT", "/mmds/config", R"({
      "version": "V2", "network_interfaces": ["eth0", "eth1"], "ipv4_address": "169.254.170.2", "imds_compat": true})");
  EXPECT_EQ(whole.value, (MmdsConfig{MmdsVersion::V2, {"eth0", "eth1"}, {169, 254, 170, 2}, true}));
  const auto least = command<PutMmdsConfig>("PUT", "/mmds/config", R"({"network_interfaces": ["eth0"]})");
  EXPECT_EQ(least.value, (MmdsConfig{MmdsVersion::V1, {"eth0"}, {169, 254, 169, 254}, false}));
}

TEST(MmdsJson, RefusesABadConfiguration) {
  const auto refused = [](std::string_view field) {
    return refusal("PUT", "/mmds/config", fmt::format(R"({{"network_interfaces": ["eth0"], {}}})", field));
  };
  EXPECT_EQ(refusal("PUT", "/mmds/config", "{}"), R"(mmds/config needs the field "network_interfaces")");
  EXPECT_EQ(refusal("PUT", "/mmds/config", R"({"network_interfaces": "eth0"})"),
            R"(mmds/config.network_interfaces must be an array, not the string "eth0")");
  EXPECT_TRUE(refusal("PUT", "/mmds/config", R"({"network_interfaces": ["eth0", "a/b"]})")
                  .starts_with("mmds/config.network_interfaces[1] must be "));
  EXPECT_EQ(refused(R"("version": "V3")"), R"(mmds/config.version must be one of V1, V2, not "V3")");
  EXPECT_EQ(refused(R"("imds_compat": 1)"), "mmds/config.imds_compat must be true or false, not 1");
  for (const std::string_view address : {"10.0.0.1", "169.254.0.1", "169.254.255.1", "169.254.169.256", "here", ""}) {
    const std::string message = refused(fmt::format(R"("ipv4_address": "{}")", address));
    EXPECT_TRUE(message.starts_with("mmds/config.ipv4_address: ")) << message;
  }
}

TEST(MmdsJson, MetadataAreAnyObject) {
  const auto put = command<PutMmds>("PUT", "/mmds", R"({"a": [1, {"b": null}], "c": {}})");
  EXPECT_EQ(to_json(put.value), R"({"a":[1,{"b":null}],"c":{}})");
  const auto patch = command<PatchMmds>("PATCH", "/mmds/", R"({"a": null})");
  EXPECT_EQ(to_json(patch.value), R"({"a":null})");
  EXPECT_EQ(refusal("PUT", "/mmds", "[1]"), "mmds must be a JSON object");
  EXPECT_EQ(refusal("PATCH", "/mmds", R"("a secret")"), "mmds must be a JSON object");
  EXPECT_NE(refusal("PUT", "/mmds", "{"), "");
  (void)command<GetMmds>("GET", "/mmds", "");
}

TEST(MmdsJson, AnswersWithTheMetadataAsTheyAre) {
  const ApiResponse response = command_response(Answer{MmdsContents{R"({"a":1})"}});
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, R"({"a":1})");
}

TEST(MmdsJson, TheConfigurationIsShownAsItIsRead) {
  VmConfig config;
  EXPECT_EQ(vm_config_json(config).find("mmds-config"), std::string::npos);
  config.mmds = MmdsConfig{MmdsVersion::V2, {"eth0"}, {169, 254, 170, 2}, true};
  const std::string shown = vm_config_json(config);
  constexpr std::string_view kSection = R"("mmds-config":{"version":"V2","network_interfaces":["eth0"],)"
                                        R"("ipv4_address":"169.254.170.2","imds_compat":true})";
  EXPECT_NE(shown.find(kSection), std::string::npos) << shown;

  const auto commands = config_commands(fmt::format(
      R"({{"boot-source": {{"kernel_image_path": "/k"}}, {}, "network-interfaces": [{{"iface_id": "eth0", "host_dev_name": "t"}}]}})",
      kSection));
  ASSERT_TRUE(commands) << commands.error().message;
  ASSERT_EQ(commands->size(), 4U);
  EXPECT_TRUE(std::holds_alternative<PutNetworkInterface>((*commands)[1]));  // which it names
  EXPECT_EQ(std::get<PutMmdsConfig>((*commands)[2]).value, config.mmds);
}

}  // namespace
}  // namespace mayfly
