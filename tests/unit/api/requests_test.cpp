#include "api/requests.h"

#include "tests/unit/api/parsed_requests.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(ParseRequest, MakesTheCommandsThatHaveNoBody) {
  command<GetInstanceInfo>("GET", "/");
  command<GetMachineConfig>("GET", "/machine-config");
  command<GetVmConfig>("GET", "/vm/config");
  command<GetPrometheusMetrics>("GET", "/metrics/prometheus");
  const auto version = parse_request({.method = "GET", .path = "/version", .body = ""});
  ASSERT_TRUE(version);
  EXPECT_TRUE(std::holds_alternative<GetVersion>(*version));
}

TEST(ParseRequest, ASlashAtTheEndDoesNotMatter) {
  command<GetMachineConfig>("GET", "/machine-config/");
  command<GetVmConfig>("GET", "/vm/config/");
}

TEST(ParseRequest, MakesActions) {
  command<StartInstance>("PUT", "/actions", R"({"action_type": "InstanceStart"})");
  command<FlushMetrics>("PUT", "/actions", R"({"action_type": "FlushMetrics"})");
  command<SendCtrlAltDel>("PUT", "/actions", R"({"action_type": "SendCtrlAltDel"})");
  EXPECT_EQ(
      refusal("PUT", "/actions", R"({"action_type": "instancestart"})"),
      R"(actions.action_type must be one of InstanceStart, FlushMetrics, SendCtrlAltDel, FinishWorkingSet, not "instancestart")");
  EXPECT_EQ(refusal("PUT", "/actions", "{}"), R"(actions needs the field "action_type")");
}

TEST(ParseRequest, PausesAndResumes) {
  command<PauseVm>("PATCH", "/vm", R"({"state": "Paused"})");
  command<ResumeVm>("PATCH", "/vm", R"({"state": "Resumed"})");
  EXPECT_EQ(refusal("PATCH", "/vm", R"({"state": "Running"})"),
            R"(vm.state must be one of Paused, Resumed, not "Running")");
}

TEST(ParseRequest, ReadsTheBootSource) {
  const auto whole = command<PutBootSource>(
      "PUT", "/boot-source", R"({"kernel_image_path": "/k", "initrd_path": "/i", "boot_args": "console=ttyS0"})");
  EXPECT_EQ(whole.value.kernel_image_path, "/k");
  EXPECT_EQ(whole.value.initrd_path, "/i");
  EXPECT_EQ(whole.value.boot_args, "console=ttyS0");
  const auto least =
      command<PutBootSource>("PUT", "/boot-source", R"({"kernel_image_path": "/k", "initrd_path": null})");
  EXPECT_EQ(least.value.initrd_path, std::nullopt);
  EXPECT_EQ(least.value.boot_args, std::nullopt);
}

TEST(ParseRequest, RefusesABadBootSource) {
  EXPECT_EQ(refusal("PUT", "/boot-source", "{}"), R"(boot-source needs the field "kernel_image_path")");
  EXPECT_EQ(refusal("PUT", "/boot-source", R"({"kernel_image_path": ""})"),
            "boot-source.kernel_image_path is empty, where a path is needed");
  EXPECT_EQ(refusal("PUT", "/boot-source", R"({"kernel_image_path": "/k", "kernel": "/k"})"),
            R"(boot-source has no field "kernel"; its fields are kernel_image_path, initrd_path, boot_args)");
  EXPECT_EQ(
      refusal("PUT", "/boot-source", R"({"kernel_image_path": "/k", "boot_args": ")" + std::string(2048, 'x') + "\"}"),
      "boot-source.boot_args is 2048 bytes long; at most 2047 are allowed");
  EXPECT_EQ(refusal("PUT", "/boot-source", R"({"kernel_image_path": "/k", "boot_args": "a\u0000"})"),
            "boot-source.boot_args has a NUL character, at byte 1");
}

TEST(ParseRequest, ReadsTheMachineConfiguration) {
  const auto whole = command<PutMachineConfig>(
      "PUT", "/machine-config",
      R"({"vcpu_count": 32, "mem_size_mib": 1024, "smt": true, "track_dirty_pages": true, "huge_pages": "2M",
          "cpu_template": "None"})");
  EXPECT_EQ(whole.value.vcpu_count, 32U);
  EXPECT_EQ(whole.value.mem_size_mib, 1024U);
  EXPECT_TRUE(whole.value.smt);
  EXPECT_TRUE(whole.value.track_dirty_pages);
  EXPECT_EQ(whole.value.huge_pages, HugePages::Explicit2M);
  const auto least = command<PutMachineConfig>("PUT", "/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 1})");
  EXPECT_FALSE(least.value.smt);
  EXPECT_FALSE(least.value.track_dirty_pages);
  EXPECT_EQ(least.value.huge_pages, HugePages::Transparent);
  EXPECT_EQ(least.value.cpu_template, CpuTemplate::None);
  EXPECT_EQ(command<PutMachineConfig>("PUT", "/machine-config",
                                      R"({"vcpu_count": 1, "mem_size_mib": 1, "cpu_template": "T2"})")
                .value.cpu_template,
            CpuTemplate::T2);
  for (const auto& [name, value] : {std::pair{"T2S", CpuTemplate::T2S}, std::pair{"T2CL", CpuTemplate::T2CL},
                                    std::pair{"T2A", CpuTemplate::T2A}, std::pair{"C3", CpuTemplate::C3}})
    EXPECT_EQ(command<PatchMachineConfig>("PATCH", "/machine-config", fmt::format(R"({{"cpu_template": "{}"}})", name))
                  .value.cpu_template,
              value);
  command<PutMachineConfig>("PUT", "/machine-config",
                            R"({"vcpu_count": 3, "mem_size_mib": 3, "huge_pages": "Transparent"})");
  command<PutMachineConfig>("PUT", "/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 1048576, "smt": true})");
}

TEST(ParseRequest, RefusesABadMachineConfiguration) {
  const auto refused = [](std::string_view body) { return refusal("PUT", "/machine-config", body); };
  EXPECT_EQ(refused(R"({"mem_size_mib": 1})"), R"(machine-config needs the field "vcpu_count")");
  EXPECT_EQ(refused(R"({"vcpu_count": 1})"), R"(machine-config needs the field "mem_size_mib")");
  EXPECT_EQ(refused(R"({"vcpu_count": 0, "mem_size_mib": 1})"),
            "machine-config.vcpu_count must be from 1 to 32, not 0");
  EXPECT_EQ(refused(R"({"vcpu_count": 33, "mem_size_mib": 1})"),
            "machine-config.vcpu_count must be from 1 to 32, not 33");
  EXPECT_EQ(refused(R"({"vcpu_count": -1, "mem_size_mib": 1})"),
            "machine-config.vcpu_count must be from 1 to 32, not -1");
  EXPECT_EQ(refused(R"({"vcpu_count": 1, "mem_size_mib": 0})"),
            "machine-config.mem_size_mib must be from 1 to 1048576, not 0");
  EXPECT_EQ(refused(R"({"vcpu_count": 1, "mem_size_mib": 1048577})"),
            "machine-config.mem_size_mib must be from 1 to 1048576, not 1048577");
  EXPECT_EQ(refused(R"({"vcpu_count": 1, "mem_size_mib": 129, "huge_pages": "2M"})"),
            R"(machine-config.mem_size_mib must be even where huge_pages is "2M", not 129)");
  EXPECT_EQ(refused(R"({"vcpu_count": 3, "mem_size_mib": 128, "smt": true})"),
            "machine-config.vcpu_count must be 1 or even where smt is true, not 3");
  EXPECT_EQ(refused(R"({"vcpu_count": 1, "mem_size_mib": 128, "huge_pages": "1G"})"),
            R"(machine-config.huge_pages must be one of None, Transparent, 2M, not "1G")");
  EXPECT_EQ(refused(R"({"vcpu_count": 1, "mem_size_mib": 128, "cpu_template": "V1N1"})"),
            "machine-config.cpu_template \"V1N1\" is for 64-bit Arm, and this is an x86-64 machine: leave it out");
  EXPECT_EQ(refused(R"({"vcpu_count": 1, "mem_size_mib": 128, "cpu_template": "T3"})"),
            "machine-config.cpu_template must be one of None, T2, T2S, T2CL, T2A, C3, not \"T3\"");
}

TEST(ParseRequest, ReadsAPatchOfTheMachineConfiguration) {
  const auto one = command<PatchMachineConfig>("PATCH", "/machine-config", R"({"mem_size_mib": 256})");
  EXPECT_EQ(one.value.mem_size_mib, 256U);
  EXPECT_EQ(one.value.vcpu_count, std::nullopt);
  const auto all = command<PatchMachineConfig>(
      "PATCH", "/machine-config",
      R"({"vcpu_count": 2, "mem_size_mib": 2, "smt": true, "track_dirty_pages": false, "huge_pages": "2M"})");
  EXPECT_EQ(all.value.vcpu_count, 2U);
  EXPECT_EQ(all.value.smt, true);
  EXPECT_EQ(all.value.track_dirty_pages, false);
  EXPECT_EQ(all.value.huge_pages, HugePages::Explicit2M);
  EXPECT_EQ(all.value.cpu_template, std::nullopt);
  EXPECT_EQ(command<PatchMachineConfig>("PATCH", "/machine-config", R"({"cpu_template": "None"})").value.cpu_template,
            CpuTemplate::None);
  EXPECT_EQ(refusal("PATCH", "/machine-config", "{}"), "machine-config has no field to change");
  EXPECT_EQ(refusal("PATCH", "/machine-config", R"({"smt": null})"), "machine-config has no field to change");
  EXPECT_EQ(refusal("PATCH", "/machine-config", R"({"mem_size_mib": 3, "huge_pages": "2M"})"),
            R"(machine-config.mem_size_mib must be even where huge_pages is "2M", not 3)");
  // Whether 3 MiB can be had depends on the pages configured before: the controller's to judge.
  command<PatchMachineConfig>("PATCH", "/machine-config", R"({"mem_size_mib": 3})");
}

TEST(ParseRequest, ReadsCpuTemplates) {
  const auto put = command<PutCpuConfig>("PUT", "/cpu-config",
                                         R"({
      "kvm_capabilities": ["121", "!56"],
      "cpuid_modifiers": [
        {"leaf": "0x80000001", "subleaf": "0b11", "flags": 1, "modifiers": [
          {"register": "eax", "bitmap": "0b1x0"},
          {"register": "edx", "bitmap": "0bx00100xxx1xxxx00xxx1xxxxxxx_xxxx1"}]},
        {"leaf": "7", "subleaf": "0", "flags": 0, "modifiers": []}],
      "msr_modifiers": [{"addr": "0x10a", "bitmap": "1_)" +
                                             std::string(63, 'x') + R"("}],
      "reg_modifiers": [], "vcpu_features": []})");
  const CpuConfig& config = put.value;
  ASSERT_EQ(config.capabilities.size(), 2U);
  EXPECT_EQ(config.capabilities[0].number, 121U);
  EXPECT_FALSE(config.capabilities[0].removed);
  EXPECT_EQ(config.capabilities[1].number, 56U);
  EXPECT_TRUE(config.capabilities[1].removed);
  ASSERT_EQ(config.cpuid.size(), 2U);
  EXPECT_EQ(config.cpuid[0].leaf, 0x80000001U);
  EXPECT_EQ(config.cpuid[0].subleaf, 3U);
  EXPECT_EQ(config.cpuid[0].flags, 1U);
  EXPECT_EQ(config.cpuid[0].reg, CpuidRegister::Eax);
  EXPECT_EQ(config.cpuid[0].bits.mask, 0b101U);
  EXPECT_EQ(config.cpuid[0].bits.value, 0b100U);
  EXPECT_EQ(config.cpuid[1].reg, CpuidRegister::Edx);
  EXPECT_EQ(config.cpuid[1].bits.mask, 0b01111100010000110001000000000001U);
  EXPECT_EQ(config.cpuid[1].bits.value, 0b00010000010000000001000000000001U);
  ASSERT_EQ(config.msrs.size(), 1U);
  EXPECT_EQ(config.msrs[0].address, 0x10AU);
  EXPECT_EQ(config.msrs[0].bits.mask, 1ULL << 63);
  EXPECT_EQ(config.msrs[0].bits.value, 1ULL << 63);
  command<PutCpuConfig>("PUT", "/cpu-config", "{}");
}

std::string refused_leaf(std::string_view leaf) {
  return refusal("PUT", "/cpu-config", fmt::format(R"({{"cpuid_modifiers": [{}]}})", leaf));
}

std::string refused_bitmap(std::string_view bitmap) {
  return refusal("PUT", "/cpu-config",
                 fmt::format(R"({{"msr_modifiers": [{{"addr": "1", "bitmap": "{}"}}]}})", bitmap));
}

TEST(ParseRequest, RefusesBadCpuTemplates) {
  EXPECT_EQ(refused_leaf(R"({"subleaf": "0", "flags": 0, "modifiers": []})"),
            R"(cpu-config.cpuid_modifiers[0] needs the field "leaf")");
  EXPECT_EQ(refused_leaf(R"({"leaf": "0x", "subleaf": "0", "flags": 0, "modifiers": []})"),
            "cpu-config.cpuid_modifiers[0].leaf must be a 32-bit number in a string, hexadecimal (\"0x10a\"), binary "
            "(\"0b101\") or decimal (\"266\"), not \"0x\"");
  for (const std::string_view address :
       {"", "0x100000000", "0b2", "-1", "+1", "0x-1", "1 ", " 1", "0X1", "1f", "4294967296"}) {
    EXPECT_NE(refused_leaf(fmt::format(R"({{"leaf": "{}", "subleaf": "0", "flags": 0, "modifiers": []}})", address)),
              "")
        << address;
  }
  EXPECT_EQ(refused_leaf(R"({"leaf": 1, "subleaf": "0", "flags": 0, "modifiers": []})"),
            "cpu-config.cpuid_modifiers[0].leaf must be a string, not 1");
  EXPECT_EQ(refused_leaf(R"({"leaf": "1", "subleaf": "0", "flags": 4294967296, "modifiers": []})"),
            "cpu-config.cpuid_modifiers[0].flags must be from 0 to 4294967295, not 4294967296");
  EXPECT_EQ(refused_leaf(R"({"leaf": "1", "subleaf": "0", "flags": 0,
                             "modifiers": [{"register": "rax", "bitmap": "0b1"}]})"),
            R"(cpu-config.cpuid_modifiers[0].modifiers[0].register must be one of eax, ebx, ecx, edx, not "rax")");
  EXPECT_EQ(refused_leaf(R"({"leaf": "1", "subleaf": "0", "flags": 0,
                             "modifiers": [{"register": "eax", "bitmap": "0b111111111111111111111111111111111"}]})"),
            "cpu-config.cpuid_modifiers[0].modifiers[0].bitmap has more than the 32 bits of the register: "
            "\"0b111111111111111111111111111111111\"");
  EXPECT_EQ(refused_bitmap("0b12"),
            R"(cpu-config.msr_modifiers[0].bitmap must be "0b" and then only 0, 1, x and _, not "0b12")");
  EXPECT_EQ(refused_bitmap("0b__"), R"(cpu-config.msr_modifiers[0].bitmap names no bit: "0b__")");
  EXPECT_EQ(refused_bitmap(""), R"(cpu-config.msr_modifiers[0].bitmap names no bit: "")");
  for (const std::string_view number : {"", "!", "x", "0x1", "!!1", "-1", "1!"}) {
    EXPECT_EQ(refusal("PUT", "/cpu-config", fmt::format(R"({{"kvm_capabilities": ["1", "{}"]}})", number)),
              fmt::format("cpu-config.kvm_capabilities[1] must be the decimal number of a KVM capability in a string, "
                          "after a \"!\" to leave it out, not \"{}\"",
                          number));
  }
  EXPECT_EQ(refusal("PUT", "/cpu-config", R"({"reg_modifiers": [{"addr": "0x1", "bitmap": "0b1"}]})"),
            "cpu-config.reg_modifiers is for 64-bit Arm, and this is an x86-64 machine: leave it out");
  EXPECT_EQ(refusal("PUT", "/cpu-config", R"({"vcpu_features": [{}]})"),
            "cpu-config.vcpu_features is for 64-bit Arm, and this is an x86-64 machine: leave it out");
}

TEST(ParseRequest, TheIdOfThePathIsTheIdOfTheBody) {
  EXPECT_EQ(refusal("PUT", "/drives/a", R"({"drive_id": "b", "path_on_host": "/d", "is_root_device": true})"),
            R"(drives/a.drive_id is "b", but the path says "a": they must be the same)");
  EXPECT_EQ(refusal("PATCH", "/drives/a", R"({"drive_id": "A", "path_on_host": "/d"})"),
            R"(drives/a.drive_id is "A", but the path says "a": they must be the same)");
  EXPECT_EQ(refusal("PUT", "/network-interfaces/a", R"({"iface_id": "b", "host_dev_name": "t"})"),
            R"(network-interfaces/a.iface_id is "b", but the path says "a": they must be the same)");
  EXPECT_EQ(refusal("PATCH", "/network-interfaces/a", R"({"iface_id": "b"})"),
            R"(network-interfaces/a.iface_id is "b", but the path says "a": they must be the same)");
}

TEST(ParseRequest, IdsAreOfAFewLettersAndBounded) {
  EXPECT_EQ(refusal("PUT", "/drives/a b", ""),
            "PUT \"/drives/a b\": the id in the path must be 1 to 64 letters, digits, \"_\" and \"-\", not \"a b\"");
  EXPECT_EQ(refusal("PUT", "/drives/a", R"({"drive_id": "a.b", "path_on_host": "/d", "is_root_device": true})"),
            "drives/a.drive_id must be 1 to 64 letters, digits, \"_\" and \"-\", not the string \"a.b\"");
  EXPECT_EQ(refusal("PUT", "/network-interfaces/a", R"({"iface_id": "", "host_dev_name": "t"})"),
            "network-interfaces/a.iface_id must be 1 to 64 letters, digits, \"_\" and \"-\", not the string \"\"");
  const std::string longest(64, 'x');
  command<PatchDrive>("PATCH", "/drives/" + longest,
                      fmt::format(R"({{"drive_id": "{}", "path_on_host": "/d"}})", longest));
  EXPECT_LT(refusal("PUT", "/drives/" + std::string(8000, 'x'), "").size(), 400U);
}

TEST(ParseRequest, APathHasOneIdNeitherNoneNorTwo) {
  for (const std::string_view path : {"/drives", "/drives/"}) {
    EXPECT_EQ(refusal("PUT", path, "{}"), "PUT /drives: the id is missing; use PUT /drives/{drive_id}");
    EXPECT_EQ(refusal("GET", path, ""), fmt::format("GET \"/drives\": the API has no such path"));
  }
  EXPECT_EQ(refusal("PATCH", "/drives//", "{}"), "PATCH /drives: the id is missing; use PATCH /drives/{drive_id}");
  EXPECT_EQ(refusal("PATCH", "/network-interfaces", "{}"),
            "PATCH /network-interfaces: the id is missing; use PATCH /network-interfaces/{iface_id}");
  EXPECT_EQ(refusal("PUT", "/drives/a/b", "{}"),
            R"(PUT "/drives/a/b": the API has no such path; it has /drives/{drive_id})");
  EXPECT_EQ(refusal("PUT", "/drivesa", "{}"), R"(PUT "/drivesa": the API has no such path)");
  command<PatchDrive>("PATCH", "/drives/d/", R"({"drive_id": "d", "path_on_host": "/d"})");
}

TEST(ParseRequest, ReadsWhereOutputGoes) {
  const auto serial = command<PutSerial>(
      "PUT", "/serial",
      R"({"serial_out_path": "/s", "rate_limiter": {"size": 10, "refill_time": 20, "one_time_burst": 30}})");
  EXPECT_EQ(serial.value.serial_out_path, "/s");
  ASSERT_TRUE(serial.value.rate_limiter);
  EXPECT_EQ(serial.value.rate_limiter->size, 10U);
  EXPECT_EQ(serial.value.rate_limiter->refill_time_ms, 20U);
  EXPECT_EQ(serial.value.rate_limiter->one_time_burst, 30U);
  EXPECT_EQ(command<PutSerial>("PUT", "/serial", "{}").value.serial_out_path, std::nullopt);
  EXPECT_EQ(command<PutSerial>("PUT", "/serial", R"({"max_bytes": 131072})").value.max_bytes, 131072U);
  EXPECT_EQ(command<PutLogger>("PUT", "/logger", R"({"max_bytes": 131072})").value.max_bytes, 131072U);
  EXPECT_EQ(refusal("PUT", "/serial", R"({"max_bytes": 131071})"),
            "serial.max_bytes must be from 131072 to 9223372036854775807, not 131071");
  EXPECT_EQ(refusal("PUT", "/serial", R"({"rate_limiter": {"size": 1}})"),
            R"(serial.rate_limiter needs the field "refill_time")");
  EXPECT_EQ(refusal("PUT", "/serial", R"({"rate_limiter": {"size": -1, "refill_time": 1}})"),
            "serial.rate_limiter.size must be from 0 to 9223372036854775807, not -1");

  const auto metrics =
      command<PutMetrics>("PUT", "/metrics", R"({"metrics_path": "/m", "emit_id": true, "properties": {"zone": "a"}})");
  EXPECT_EQ(metrics.value.metrics_path, "/m");
  EXPECT_TRUE(metrics.value.emit_id);
  EXPECT_EQ(metrics.value.properties.at("zone"), "a");
  EXPECT_EQ(refusal("PUT", "/metrics", "{}"), R"(metrics needs the field "metrics_path")");
}

TEST(ParseRequest, ReadsTheLogger) {
  const auto all = command<PutLogger>("PUT", "/logger", R"({"log_path": "/l", "level": "dEbUg", "show_level": true,
                                                            "show_log_origin": false, "module": "vmm"})");
  EXPECT_EQ(all.value.log_path, "/l");
  EXPECT_EQ(all.value.level, LogLevel::Debug);
  EXPECT_EQ(all.value.show_level, true);
  EXPECT_EQ(all.value.show_log_origin, false);
  EXPECT_EQ(all.value.module, "vmm");
  EXPECT_EQ(command<PutLogger>("PUT", "/logger", "{}").value.level, std::nullopt);
  EXPECT_EQ(command<PutLogger>("PUT", "/logger", R"({"level": "warn"})").value.level, LogLevel::Warning);
  EXPECT_EQ(command<PutLogger>("PUT", "/logger", R"({"level": "OFF"})").value.level, LogLevel::Off);
  EXPECT_EQ(refusal("PUT", "/logger", R"({"level": "loud"})"),
            R"(logger.level must be one of Error, Warning, Info, Debug, Trace, Off, not "loud")");
}

TEST(ParseRequest, RefusesBodiesThatAreNoObjects) {
  EXPECT_EQ(refusal("PUT", "/vm/../boot-source", ""), R"(PUT "/vm/../boot-source": the API has no such path)");
  EXPECT_EQ(refusal("PUT", "/boot-source", ""), "PUT /boot-source: the body is empty, where a JSON object is needed");
  EXPECT_EQ(refusal("PATCH", "/vm", "{"),
            "PATCH /vm: the body is not valid JSON: a comma, colon, bracket, brace or quotation mark is missing or "
            "superfluous");
  EXPECT_EQ(refusal("PUT", "/actions", R"("InstanceStart")"),
            R"(actions must be a JSON object, not the string "InstanceStart")");
  EXPECT_EQ(refusal("GET", "/version", "{}"), "GET /version takes no body");
}

TEST(ParseRequest, UnknownPathsAndMethodsAreNotFoundAndNamed) {
  EXPECT_EQ(refusal("GET", "/nowhere", ""), R"(GET "/nowhere": the API has no such path)");
  EXPECT_EQ(refusal("GET", "", ""), R"(GET "": the API has no such path)");
  EXPECT_EQ(refusal("GET", "/boot-source", ""),
            "GET /boot-source: the API has no such method here; /boot-source takes PUT");
  EXPECT_EQ(refusal("DELETE", "/machine-config", ""),
            "DELETE /machine-config: the API has no such method here; /machine-config takes GET, PUT, PATCH");
  EXPECT_EQ(refusal("put", "/vm", ""), "put /vm: the API has no such method here; /vm takes PATCH");
  EXPECT_EQ(refusal("GET", "/drives/rootfs", ""),
            "GET /drives/{drive_id}: the API has no such method here; /drives/{drive_id} takes PUT, PATCH");
}

TEST(ParseRequest, PathsOfDevicesThatMayflyDoesNotHaveSaySo) {
  EXPECT_EQ(refusal("PUT", "/balloon", "{}"),
            fmt::format("PUT /balloon: Mayfly has no balloon device; it has {}", kDevicesThatExist));
  EXPECT_EQ(refusal("PATCH", "/balloon/hinting/start", ""),
            fmt::format("PATCH /balloon/hinting/start: Mayfly has no balloon device; it has {}", kDevicesThatExist));
  for (const std::string_view path : {"/entropy", "/hotplug/memory", "/pmem/p0", "/vsock"}) {
    EXPECT_NE(refusal("PUT", path, "{}").find("Mayfly has no "), std::string::npos) << path;
  }
}

TEST(ParseRequest, KnowsEachOfItsRoutes) {
  for (const auto& [method, path] : api_routes()) {
    const auto call = parse_request({.method = method, .path = path, .body = ""});
    if (method == "GET" || method == "DELETE") {
      EXPECT_TRUE(call) << path;
    } else {
      EXPECT_EQ(call.error().status, 400) << path;
    }
  }
}

}  // namespace
}  // namespace mayfly
