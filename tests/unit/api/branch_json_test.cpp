#include "api/responses.h"
#include "tests/unit/api/parsed_requests.h"

#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

std::string refused_branch(const std::string& body) { return refusal("PUT", "/vm/branch", body); }

std::string one_child(const std::string& more) {
  return R"({"children": [{"id": "a", "api_socket": "/a")" + more + "}]}";
}

TEST(BranchJson, AChildHasNameSocketAndWhatIsItsOwn) {
  const BranchParams params = command<BranchVm>("PUT", "/vm/branch", R"({
      "frozen_drives": [{"drive_id": "d", "path_on_host": "/frozen"}],
      "children": [{"id": "a", "api_socket": "/a"},
                   {"id": "b", "api_socket": "/b", "serial_out_path": "/out", "metadata": {"x": 1},
                    "network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap1"}],
                    "drive_overrides": [{"drive_id": "d", "path_on_host": "/over"}],
                    "channel_overrides": [{"port": 1024, "uds_path": "/own"}]}]})")
                                  .value;
  ASSERT_EQ(params.children.size(), 2U);
  EXPECT_EQ(params.children[0].id, "a");
  EXPECT_EQ(params.children[0].api_socket, "/a");
  EXPECT_FALSE(params.children[0].metadata);
  EXPECT_EQ(params.children[1].serial_out_path, "/out");
  EXPECT_TRUE(params.children[1].metadata);
  ASSERT_EQ(params.children[1].network_overrides.size(), 1U);
  EXPECT_EQ(params.children[1].network_overrides[0].host_dev_name, "tap1");
  ASSERT_EQ(params.children[1].drive_overrides.size(), 1U);
  EXPECT_EQ(params.children[1].drive_overrides[0].path_on_host, "/over");
  EXPECT_EQ(params.children[1].channel_overrides, (std::vector<ChannelOverride>{{.port = 1024, .uds_path = "/own"}}));
  EXPECT_TRUE(params.children[0].channel_overrides.empty());
  ASSERT_EQ(params.frozen_drives.size(), 1U);
  EXPECT_EQ(params.frozen_drives[0].path_on_host, "/frozen");
}

TEST(BranchJson, RefusesWhatCannotBeAChild) {
  EXPECT_EQ(refused_branch("{}"), R"(vm/branch needs the field "children")");
  EXPECT_EQ(refused_branch(R"({"children": []})"), "vm/branch.children has 0 elements; it must have from 1 to 128");
  EXPECT_EQ(refused_branch(R"({"children": [{"api_socket": "/a"}]})"), R"(vm/branch.children[0] needs the field "id")");
  EXPECT_EQ(refused_branch(R"({"children": [{"id": "a"}]})"), R"(vm/branch.children[0] needs the field "api_socket")");
  EXPECT_EQ(refused_branch(R"({"children": [{"id": "a b", "api_socket": "/a"}]})"),
            R"(vm/branch.children[0].id must be 1 to 64 letters, digits and hyphens, not the string "a b")");
  EXPECT_EQ(refused_branch(R"({"children": [{"id": "a", "api_socket": "/a"}, {"id": "a", "api_socket": "/b"}]})"),
            R"(vm/branch.children[1].id is "a", as that of children[0]; give each child its own)");
  EXPECT_EQ(refused_branch(R"({"children": [{"id": "a", "api_socket": "/a"}, {"id": "b", "api_socket": "/a"}]})"),
            R"(vm/branch.children[1].api_socket is "/a", as that of children[0]; give each child its own)");
  EXPECT_EQ(refused_branch(one_child(R"(, "metadata": "secret")")),
            "vm/branch.children[0].metadata must be a JSON object");
  EXPECT_NE(
      refused_branch(one_child(R"(, "drive_overrides": [{"drive_id": "d", "path_on_host": "/o", "base_path": "/b"}])"))
          .find(R"(has no field "base_path")"),
      std::string::npos);
}

TEST(BranchJson, TheAnswerSaysWhatBecameOfEach) {
  const ApiResponse response = command_response(Branched{
      {{.id = "a", .api_socket = "/a", .pid = 7}, {.id = "b", .api_socket = "/b", .pid = 8, .error = "no TAP"}}});
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, R"({"children":[{"id":"a","api_socket":"/a","pid":7},)"
                           R"({"id":"b","api_socket":"/b","error":"no TAP"}]})");
}

}  // namespace
}  // namespace mayfly
