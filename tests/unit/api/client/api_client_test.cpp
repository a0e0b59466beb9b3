#include "api/client/api_client.h"

#include "api/server.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/api/fake_target.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

class Client : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = ApiServer::create({.socket_path = path_, .max_payload = 1000}, target_);
    ASSERT_TRUE(server && (*server)->start());
    server_ = std::move(*server);
  }
  testing::ScratchDirectory scratch_;
  std::string path_ = scratch_.file("api.sock");
  FakeTarget target_;
  std::unique_ptr<ApiServer> server_;
};

TEST_F(Client, SendsRequestsAndTakesAnswers) {
  ApiClient client{path_};
  EXPECT_EQ(client.send("PATCH", "/vm", R"({"state": "Paused"})"), "");
  ASSERT_EQ(target_.commands().size(), 1U);
  EXPECT_TRUE(std::holds_alternative<PauseVm>(target_.commands()[0]));
  const auto info = client.send("GET", "/");
  ASSERT_TRUE(info.has_value());
  EXPECT_NE(info->find("\"id\":\"fake\""), std::string::npos) << *info;
  EXPECT_EQ(client.send("GET", "/metrics/prometheus"), "mayfly_up 1\n");
}

TEST_F(Client, TellsARefusalInTheServersWords) {
  target_.refuse_with({ErrorKind::State, "not now"});
  const auto refused = ApiClient{path_}.send("PATCH", "/vm", R"({"state": "Paused"})");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "PATCH /vm is refused: not now");
}

TEST_F(Client, SaysWhyNobodyIsThere) {
  const auto error = [](const std::string& path) { return ApiClient{path}.send("GET", "/").error().message; };
  EXPECT_EQ(error(scratch_.file("none")), "there is no socket " + scratch_.file("none"));
  const std::string file = testing::make_file(scratch_.file("file"), "");
  EXPECT_EQ(error(file), "nobody listens at " + file + ": its machine has ended");
  EXPECT_NE(error(std::string(200, 'x')).find("200 bytes"), std::string::npos);
}

}  // namespace
}  // namespace mayfly
