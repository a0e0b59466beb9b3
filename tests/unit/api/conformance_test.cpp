// Every request that api/openapi.yaml allows or forbids, put to a server that runs.

#include "api/requests.h"
#include "api/server.h"
#include "tests/support/api_probes.h"
#include "tests/support/child_process.h"
#include "tests/unit/api/fake_target.h"
#include "tests/unit/api/unix_client.h"

#include <map>
#include <set>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::ApiDescription;
using testing::ApiProbe;
using testing::HttpAnswer;

/// What a refusal says; empty where its body is none.
std::string fault_of(const HttpAnswer& answer) {
  const auto body = parse_json(answer.body, "the answer");
  return body ? testing::text_of(testing::find(*body, "fault_message")) : "";
}

class ConformanceTest : public ::testing::Test {
 protected:
  ConformanceTest() {
    auto server = ApiServer::create({.socket_path = path_}, target_);
    EXPECT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
    EXPECT_TRUE(server_->start());
    connection_ = testing::connect_unix(path_);
  }

  void expect_as_described(const ApiProbe& probe) {
    const HttpAnswer answer = testing::exchange(connection_.get(), probe.method, probe.path, probe.body);
    EXPECT_EQ(answer.status, probe.status)
        << probe.method << ' ' << probe.path << ' ' << probe.body << ": " << answer.body;
    if (probe.allowed()) return;
    EXPECT_NE(fault_of(answer).find(probe.says), std::string::npos)
        << probe.method << ' ' << probe.path << ' ' << probe.body << ": " << answer.body << " lacks " << probe.says;
  }

  TestDirectory directory_;
  std::string path_ = directory_.file("api.sock");
  FakeTarget target_;
  std::unique_ptr<ApiServer> server_;
  OwnedFd connection_;
};

TEST_F(ConformanceTest, EveryRequestIsAnsweredAsDescribed) {
  for (const ApiProbe& probe : testing::probes_of(ApiDescription::ours())) expect_as_described(probe);
}

TEST_F(ConformanceTest, WhatIsForbiddenNeverReachesTheMachine) {
  std::size_t allowed = 0;
  for (const ApiProbe& probe : testing::probes_of(ApiDescription::ours())) {
    static_cast<void>(testing::exchange(connection_.get(), probe.method, probe.path, probe.body));
    if (probe.allowed() && probe.path != "/version") ++allowed;
  }
  EXPECT_EQ(target_.commands().size(), allowed);
}

TEST(Conformance, EveryOperationAndEverySortOfMistakeIsTried) {
  std::set<std::string> operations;
  std::map<std::string, std::size_t> refusals = {
      {"has no field", 0},           {"needs the field", 0}, {"must be from", 0},       {"has the field", 0},
      {"must be a whole number", 0}, {"needs exactly", 0},   {"[0] must be ", 0},       {"at most ", 0},
      {"must be a JSON object", 0},  {"not valid JSON", 0},  {"body is empty", 0},      {"takes no body", 0},
      {"the id in the path", 0},     {"drive_id is ", 0},    {"no such method here", 0}};
  for (const ApiProbe& probe : testing::probes_of(ApiDescription::ours())) {
    if (probe.allowed()) operations.insert(probe.operation);
    for (auto& [sort, count] : refusals)
      if (probe.says.find(sort) != std::string::npos) ++count;
  }
  std::set<std::string> served;
  for (const auto& [method, path] : api_routes()) served.insert(fmt::format("{} {}", method, path));
  EXPECT_EQ(operations, served);
  for (const auto& [sort, count] : refusals) EXPECT_GT(count, 0U) << sort;
}

}  // namespace
}  // namespace mayfly
