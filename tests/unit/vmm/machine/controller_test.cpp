#include "vmm/machine/controller.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::ScratchDirectory;

/// A controller on this thread's loop; no KVM is touched before a start.
class ControllerTest : public ::testing::Test {
 protected:
  ControllerTest() {
    auto loop = EventLoop::create();
    if (!loop) std::abort();
    loop_ = std::move(*loop);
    static_cast<void>(log_.configure({.log_path = scratch_.file("log"),
                                      .level = LogLevel::Debug,
                                      .show_level = {},
                                      .show_log_origin = {},
                                      .module = {}}));
    controller_.emplace(*loop_, log_, metrics_, ControllerOptions{.id = "unit"});
  }

  std::string file(const std::string& name, const std::string& content) {
    return testing::make_file(scratch_.file(name), content);
  }
  /// The refusal's sentence; empty where the command was carried out.
  std::string refusal(Command command) {
    auto answer = controller_->carry_out(std::move(command));
    return answer ? "" : answer.error().message;
  }
  VmConfig config() { return std::get<VmConfig>(*controller_->carry_out(GetVmConfig{})); }

  ScratchDirectory scratch_;
  std::unique_ptr<EventLoop> loop_;
  Log log_{"unit"};
  Metrics metrics_;
  std::optional<Controller> controller_;
};

Command boot_source(std::string path) {
  return PutBootSource{{.kernel_image_path = std::move(path), .initrd_path = {}, .boot_args = {}}};
}

TEST_F(ControllerTest, SaysWhoItIsBeforeTheStart) {
  const auto info = std::get<InstanceInfo>(*controller_->carry_out(GetInstanceInfo{}));
  EXPECT_EQ(info.id, "unit");
  EXPECT_EQ(info.state, MachineState::NotStarted);
}

TEST_F(ControllerTest, KeepsWhatItWasGiven) {
  const std::string kernel = file("kernel", "not empty");
  EXPECT_EQ(refusal(PutMachineConfig{{.vcpu_count = 4, .mem_size_mib = 512}}), "");
  EXPECT_EQ(refusal(boot_source(kernel)), "");
  EXPECT_EQ(config().machine.vcpu_count, 4U);
  EXPECT_EQ(config().boot_source->kernel_image_path, kernel);
}

TEST_F(ControllerTest, APatchChangesOnlyWhatItNames) {
  EXPECT_EQ(refusal(PutMachineConfig{{.vcpu_count = 4, .mem_size_mib = 512, .smt = true}}), "");
  MachineConfigPatch patch;
  patch.mem_size_mib = 256;
  EXPECT_EQ(refusal(PatchMachineConfig{patch}), "");
  EXPECT_EQ(config().machine.vcpu_count, 4U);
  EXPECT_EQ(config().machine.mem_size_mib, 256U);
  EXPECT_TRUE(config().machine.smt);
}

TEST_F(ControllerTest, KeepsATemplateAndWarnsThatItIsDeprecated) {
  EXPECT_EQ(refusal(PutMachineConfig{{.cpu_template = CpuTemplate::T2}}), "");
  EXPECT_EQ(config().machine.cpu_template, CpuTemplate::T2);
  EXPECT_NE(testing::content_of(scratch_.file("log")).find(":WARN] cpu_template is deprecated"), std::string::npos);
  MachineConfigPatch patch;
  patch.cpu_template = CpuTemplate::None;
  EXPECT_EQ(refusal(PatchMachineConfig{patch}), "");
  EXPECT_EQ(config().machine.cpu_template, CpuTemplate::None);
}

TEST_F(ControllerTest, RefusesZeroOddAndAbsurdSizesAndKeepsWhatWas) {
  EXPECT_EQ(refusal(PutMachineConfig{{.vcpu_count = 2, .mem_size_mib = 64}}), "");
  EXPECT_NE(refusal(PutMachineConfig{{.vcpu_count = 0}}).find("vcpu_count is 0"), std::string::npos);
  EXPECT_NE(refusal(PutMachineConfig{{.vcpu_count = 33}}).find("from 1 to 32"), std::string::npos);
  EXPECT_NE(refusal(PutMachineConfig{{.mem_size_mib = 0}}).find("mem_size_mib is 0"), std::string::npos);
  EXPECT_NE(refusal(PutMachineConfig{{.mem_size_mib = ~0ULL}}).find("mem_size_mib is 18446744073709551615"),
            std::string::npos);
  EXPECT_NE(refusal(PutMachineConfig{{.mem_size_mib = 63, .huge_pages = HugePages::Explicit2M}}).find("even"),
            std::string::npos);
  EXPECT_EQ(config().machine.vcpu_count, 2U);
  EXPECT_EQ(config().machine.mem_size_mib, 64U);
}

TEST_F(ControllerTest, APatchIsJudgedTogetherWithWhatStays) {
  EXPECT_EQ(refusal(PutMachineConfig{{.mem_size_mib = 63}}), "");
  MachineConfigPatch patch;
  patch.huge_pages = HugePages::Explicit2M;
  EXPECT_NE(refusal(PatchMachineConfig{patch}).find("even"), std::string::npos);
  EXPECT_EQ(config().machine.huge_pages, HugePages::Transparent);
}

TEST_F(ControllerTest, ARefusedKernelKeepsTheOneBefore) {
  const std::string good = file("kernel", "not empty");
  EXPECT_EQ(refusal(boot_source(good)), "");
  for (const std::string& bad : {scratch_.file("missing"), scratch_.file(""), file("empty", "")}) {
    EXPECT_NE(refusal(boot_source(bad)).find("kernel_image_path"), std::string::npos) << bad;
    EXPECT_EQ(config().boot_source->kernel_image_path, good);
  }
}

TEST_F(ControllerTest, RefusesACommandLineThatIsTooLongOrHasANul) {
  BootSource source{.kernel_image_path = file("kernel", "x"), .initrd_path = {}, .boot_args = std::string(2048, 'a')};
  EXPECT_NE(refusal(PutBootSource{source}).find("2047"), std::string::npos);
  source.boot_args = std::string("a\0b", 3);
  EXPECT_NE(refusal(PutBootSource{source}), "");
  source.boot_args = std::string(2047, 'a');
  EXPECT_EQ(refusal(PutBootSource{source}), "");
}

TEST_F(ControllerTest, RefusesToStartWithoutAKernelAndSaysWhatToSend) {
  EXPECT_NE(refusal(StartInstance{}).find("PUT /boot-source"), std::string::npos);
}

TEST_F(ControllerTest, AKernelThatIsNoneIsRefusedAtTheStartAndTheMachineStaysNotStarted) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "/dev/kvm is missing or not permitted";
  EXPECT_EQ(refusal(boot_source(file("text", "#!/bin/sh\necho this is no kernel\n"))), "");
  EXPECT_NE(refusal(StartInstance{}).find("kernel_image_path"), std::string::npos);
  EXPECT_EQ(std::get<InstanceInfo>(*controller_->carry_out(GetInstanceInfo{})).state, MachineState::NotStarted);
}

TEST_F(ControllerTest, RefusesPathsThatDoNotOpenForLogMetricsAndSerial) {
  const std::string nowhere = scratch_.file("missing/file");
  LoggerConfig logger;
  logger.log_path = nowhere;
  EXPECT_NE(refusal(PutLogger{logger}).find("log_path " + nowhere), std::string::npos);
  EXPECT_NE(refusal(PutMetrics{{.metrics_path = nowhere, .emit_id = false, .properties = {}}}).find("metrics_path"),
            std::string::npos);
  EXPECT_NE(refusal(PutSerial{{.serial_out_path = nowhere, .rate_limiter = {}}}).find("serial_out_path"),
            std::string::npos);
  EXPECT_FALSE(config().logger || config().metrics || config().serial);
}

TEST_F(ControllerTest, WritesMetricsAsLinesOfGrowth) {
  const std::string path = scratch_.file("metrics");
  EXPECT_NE(refusal(FlushMetrics{}).find("PUT /metrics"), std::string::npos);
  EXPECT_EQ(refusal(PutMetrics{{.metrics_path = path, .emit_id = true, .properties = {{"team", "a \"b\""}}}}), "");
  metrics_.vcpu.exit_io_out.add(7);
  EXPECT_EQ(refusal(FlushMetrics{}), "");
  EXPECT_EQ(refusal(FlushMetrics{}), "");
  const std::string lines = testing::content_of(path);
  const std::string first = lines.substr(0, lines.find('\n'));
  const std::string second = lines.substr(lines.find('\n') + 1);
  EXPECT_NE(first.find(R"("id":"unit")"), std::string::npos) << first;
  EXPECT_NE(first.find(R"("team":"a \"b\"")"), std::string::npos) << first;
  EXPECT_NE(first.find(R"("exit_io_out":7)"), std::string::npos) << first;
  EXPECT_NE(second.find(R"("exit_io_out":0)"), std::string::npos) << second;
}

TEST_F(ControllerTest, AMetricsPipeWithoutAReaderIsToldAndBlocksNothing) {
  const std::string path = scratch_.file("fifo");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  ASSERT_EQ(refusal(PutMetrics{{.metrics_path = path, .emit_id = false, .properties = {}}}), "");
  std::string refused;
  for (int line = 0; line < 1000 && refused.empty(); ++line) refused = refusal(FlushMetrics{});
  EXPECT_NE(refused.find("metrics_path " + path), std::string::npos);
  EXPECT_GE(metrics_.logger.missed_metrics_count.value(), 1U);
}

JsonValue json(std::string_view text) { return *parse_json(text, "the test's"); }

TEST_F(ControllerTest, KeepsAndChangesMetadata) {
  const auto contents = [&] { return std::get<MmdsContents>(*controller_->carry_out(GetMmds{})).json; };
  EXPECT_EQ(contents(), "{}");
  EXPECT_NE(refusal(PatchMmds{json("{}")}).find("PUT /mmds"), std::string::npos);
  EXPECT_EQ(refusal(PutMmds{json(R"({"a": {"b": 1}, "c": 2})")}), "");
  EXPECT_EQ(refusal(PatchMmds{json(R"({"a": {"b": "x"}, "c": null})")}), "");
  EXPECT_EQ(contents(), R"({"a":{"b":"x"}})");
  EXPECT_NE(refusal(PutMmds{json("[]")}), "");
  EXPECT_NE(refusal(PatchMmds{JsonValue{JsonValue::Object{{"d", {std::string(60'000, 'x')}}}}}).find("51200"),
            std::string::npos);
  EXPECT_EQ(contents(), R"({"a":{"b":"x"}})");
}

TEST_F(ControllerTest, MetadataHaveTheLimitThatTheOperatorSays) {
  Controller small{*loop_, log_, metrics_, {.id = "unit", .metadata_limit = 10}};
  EXPECT_TRUE(small.carry_out(PutMmds{json(R"({"a": 123})")}));
  EXPECT_FALSE(small.carry_out(PutMmds{json(R"({"a": 123456})")}));
}

TEST_F(ControllerTest, MetadataAreServedByInterfacesThatAreThere) {
  EXPECT_NE(refusal(PutMmdsConfig{}).find("network_interfaces is empty"), std::string::npos);
  EXPECT_NE(refusal(PutMmdsConfig{{.network_interfaces = {"eth7"}}}).find("PUT /network-interfaces/eth7"),
            std::string::npos);
  EXPECT_FALSE(config().mmds);
}

TEST_F(ControllerTest, CountsRequestsAndRefusals) {
  static_cast<void>(controller_->carry_out(GetInstanceInfo{}));
  static_cast<void>(controller_->carry_out(PauseVm{}));
  static_cast<void>(controller_->carry_out(StartInstance{}));
  EXPECT_EQ(metrics_.api.get_count.value(), 1U);
  EXPECT_EQ(metrics_.api.patch_fails.value(), 1U);
  EXPECT_EQ(metrics_.api.put_fails.value(), 1U);
  const auto text = std::get<PrometheusText>(*controller_->carry_out(GetPrometheusMetrics{})).text;
  EXPECT_NE(text.find("mayfly_api_server_patch_fails_total 1\n"), std::string::npos) << text;
}

TEST_F(ControllerTest, CountsRequestsByKindAsTheDialectDoes) {
  static_cast<void>(controller_->carry_out(GetInstanceInfo{}));
  EXPECT_EQ(refusal(PutMachineConfig{{.vcpu_count = 2, .mem_size_mib = 64}}), "");
  EXPECT_NE(refusal(PutMachineConfig{{.vcpu_count = 33}}), "");
  EXPECT_NE(refusal(StartInstance{}), "");
  controller_->refused("PUT", "the body is empty");
  controller_->refused("DELETE", "no such method");  // which is not counted
  const auto text = std::get<PrometheusText>(*controller_->carry_out(GetPrometheusMetrics{})).text;
  for (const char* line :
       {"mayfly_get_api_requests_instance_info_count_total 1\n", "mayfly_put_api_requests_machine_cfg_count_total 1\n",
        "mayfly_put_api_requests_machine_cfg_fails_total 1\n", "mayfly_put_api_requests_actions_fails_total 1\n",
        "mayfly_put_api_requests_drive_count_total 0\n", "mayfly_api_server_put_fails_total 3\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
}

TEST_F(ControllerTest, LogsWhyARequestMadeNoCommandButNotWithoutEnd) {
  for (int i = 0; i < 1000; ++i) controller_->refused("PUT", "the body is empty\nforged");
  const std::string log = testing::content_of(scratch_.file("log"));
  EXPECT_NE(log.find(":ERROR] a PUT request was refused: the body is empty?forged\n"), std::string::npos) << log;
  EXPECT_LE(std::ranges::count(log, '\n'), 3 * LogRate::kBurst);
}

TEST_F(ControllerTest, TellsHowManyLogLinesWereLost) {
  const std::string path = scratch_.file("fifo");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  LoggerConfig logger;
  logger.log_path = path;
  ASSERT_EQ(refusal(PutLogger{logger}), "");
  while (log_.missed() < 3) log_.info("{}", std::string(4000, 'x'));
  const auto text = std::get<PrometheusText>(*controller_->carry_out(GetPrometheusMetrics{})).text;
  EXPECT_NE(text.find("mayfly_logger_missed_log_count_total 3\n"), std::string::npos) << text;
}

TEST_F(ControllerTest, AnswersAnotherThreadWhileTheLoopRuns) {
  std::thread client{[this] {
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(controller_->execute(GetInstanceInfo{}));
    loop_->stop();
  }};
  EXPECT_TRUE(loop_->run());
  client.join();
}

TEST_F(ControllerTest, AClientThatWaitsWhenTheLoopEndsIsToldSo) {
  std::thread client{[this] {
    for (;;) {
      const auto answer = controller_->execute(GetInstanceInfo{});
      if (answer) continue;
      EXPECT_NE(answer.error().message.find("the machine has ended"), std::string::npos);
      return;
    }
  }};
  loop_->post([this] { controller_->finish({EndReason::Terminated, "told to stop"}); });
  EXPECT_TRUE(loop_->run());
  loop_->close();
  client.join();
  EXPECT_EQ(controller_->end()->reason, EndReason::Terminated);
}

TEST_F(ControllerTest, WhatWasSentBeforeACommandCountsFirst) {
  ControllerOptions options;
  Controller* told = nullptr;
  options.before_command = [&told] { told->finish({EndReason::Terminated, "told to stop"}); };
  Controller told_to_stop{*loop_, log_, metrics_, options};
  told = &told_to_stop;
  std::thread client{[&told_to_stop] {
    const auto refused = told_to_stop.execute(PutMachineConfig{});
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("the machine has ended"), std::string::npos);
  }};
  EXPECT_TRUE(loop_->run());
  loop_->close();
  client.join();
}

TEST_F(ControllerTest, OnlyTheFirstEndCounts) {
  controller_->finish({EndReason::PowerOff, "off"});
  controller_->finish({EndReason::Terminated, "told to stop"});
  EXPECT_EQ(controller_->end()->reason, EndReason::PowerOff);
  EXPECT_NE(refusal(GetInstanceInfo{}).find("has ended"), std::string::npos);
}

}  // namespace
}  // namespace mayfly
