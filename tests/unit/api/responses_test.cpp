#include "api/responses.h"

#include "tests/unit/api/answer_request.h"
#include "tests/unit/api/fake_target.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(CommandResponse, WhatOnlyDoesHasNoBody) {
  const ApiResponse response = command_response(Answer{std::monostate{}});
  EXPECT_EQ(response.status, 204);
  EXPECT_EQ(response.body, "");
}

TEST(CommandResponse, AnErrorIsAFaultMessage) {
  for (const ErrorKind kind : {ErrorKind::InvalidArgument, ErrorKind::NotFound, ErrorKind::State, ErrorKind::Kvm}) {
    const ApiResponse response = command_response(fail(kind, "cannot open \"/k\""));
    EXPECT_EQ(response.status, 400);
    EXPECT_EQ(response.body, R"({"fault_message":"cannot open \"/k\""})");
    EXPECT_EQ(response.content_type, "application/json");
  }
}

TEST(CommandResponse, MetadataOverTheirLimitAre413) {
  const Result<Answer> too_large = fail(ErrorKind::TooLarge, "metadata may have 20 bytes");
  const Result<Answer> wrong = fail(ErrorKind::InvalidArgument, "metadata must be a JSON object");
  for (const Command& command : {Command{PutMmds{}}, Command{PatchMmds{}}}) {
    EXPECT_EQ(command_response(too_large, status_if_too_large(command)).status, 413);
    EXPECT_EQ(command_response(wrong, status_if_too_large(command)).status, 400);
  }
  EXPECT_EQ(command_response(too_large, status_if_too_large(PutDrive{})).status, 400);
  EXPECT_EQ(command_response(too_large, status_if_too_large(PutMmdsConfig{})).status, 400);
}

TEST(CommandResponse, TellsTheInstance) {
  const auto body = [](MachineState state) { return command_response(Answer{InstanceInfo{"vm-1", state}}).body; };
  EXPECT_EQ(body(MachineState::NotStarted),
            R"({"id":"vm-1","state":"Not started","vmm_version":")" MAYFLY_VERSION R"(","app_name":"Mayfly"})");
  EXPECT_NE(body(MachineState::Running).find(R"("state":"Running")"), std::string::npos);
  EXPECT_NE(body(MachineState::Paused).find(R"("state":"Paused")"), std::string::npos);
}

TEST(CommandResponse, TellsTheMachineConfiguration) {
  const ApiResponse response = command_response(Answer{MachineConfig{.vcpu_count = 2,
                                                                     .mem_size_mib = 512,
                                                                     .smt = true,
                                                                     .track_dirty_pages = false,
                                                                     .huge_pages = HugePages::Explicit2M}});
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body,
            R"({"vcpu_count":2,"mem_size_mib":512,"smt":true,"track_dirty_pages":false,"huge_pages":"2M"})");
}

TEST(CommandResponse, MetricsForPrometheusArePlainText) {
  const ApiResponse response = command_response(Answer{PrometheusText{"mayfly_up 1\n"}});
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, "mayfly_up 1\n");
  EXPECT_EQ(response.content_type, "text/plain; version=0.0.4");
}

TEST(CommandResponse, MemoryIsRegionsAndWords) {
  EXPECT_EQ(
      command_response(Answer{MemoryMappings{{{.host_address = 0x7000, .size = 4, .offset = 2, .page_size = 1}}}}).body,
      R"({"mappings":[{"base_host_virt_addr":28672,"size":4,"offset":2,"page_size":1}]})");
  EXPECT_EQ(command_response(Answer{LookedAtPages{.resident = {~0ULL, 0}, .empty = {1, 0}}}).body,
            R"({"resident":[18446744073709551615,0],"empty":[1,0]})");
  EXPECT_EQ(command_response(Answer{DirtyMemory{{5}}}).body, R"({"bitmap":[5]})");
}

TEST(VmConfigJson, AnUntouchedMachineHasItsDefaults) {
  EXPECT_EQ(vm_config_json(VmConfig{}),
            R"({"machine-config":{"vcpu_count":1,"mem_size_mib":128,"smt":false,"track_dirty_pages":false},)"
            R"("drives":[],"network-interfaces":[]})");
}

TEST(AnswerRequest, CarriesCommandsToTheTarget) {
  FakeTarget target;
  EXPECT_EQ(answer_request({.method = "PATCH", .path = "/vm", .body = R"({"state":"Paused"})"}, target).status, 204);
  ASSERT_EQ(target.commands().size(), 1U);
  EXPECT_TRUE(std::holds_alternative<PauseVm>(target.commands()[0]));
}

TEST(AnswerRequest, AnswersTheVersionWithoutTheTarget) {
  FakeTarget target;
  const ApiResponse response = answer_request({.method = "GET", .path = "/version", .body = ""}, target);
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, R"({"firecracker_version":"1.17.0","mayfly_version":")" MAYFLY_VERSION R"("})");
  EXPECT_TRUE(target.commands().empty());
}

TEST(AnswerRequest, WhatIsRefusedDoesNotReachTheTarget) {
  FakeTarget target;
  EXPECT_EQ(answer_request({.method = "PATCH", .path = "/vm", .body = "{}"}, target).status, 400);
  const ApiResponse unknown = answer_request({.method = "GET", .path = "/\"", .body = ""}, target);
  EXPECT_EQ(unknown.status, 400);
  EXPECT_EQ(unknown.body, R"({"fault_message":"GET \"/\"\": the API has no such path"})");
  EXPECT_TRUE(target.commands().empty());
}

TEST(AnswerRequest, AFileThatIsNotFoundIsABadRequest) {
  FakeTarget target;
  target.refuse_with({ErrorKind::NotFound, "cannot open the kernel image /k"});
  const ApiResponse response =
      answer_request({.method = "PUT", .path = "/boot-source", .body = R"({"kernel_image_path":"/k"})"}, target);
  EXPECT_EQ(response.status, 400);
}

}  // namespace
}  // namespace mayfly
