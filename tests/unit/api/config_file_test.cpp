#include "api/config_file.h"

#include "api/requests.h"
#include "api/responses.h"
#include "tests/unit/api/parsed_requests.h"
#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

std::string file_refusal(std::string_view text) {
  const auto commands = config_commands(text);
  EXPECT_FALSE(commands) << text;
  return commands ? "" : commands.error().message;
}

/// A file with the given text, for as long as this lives.
class TextFile {
 public:
  explicit TextFile(std::string_view text) {
    const int fd = ::mkstemp(path_.data());
    EXPECT_GE(fd, 0);
    EXPECT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    ::close(fd);
  }
  TextFile(const TextFile&) = delete;
  TextFile& operator=(const TextFile&) = delete;
  ~TextFile() { ::unlink(path_.c_str()); }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/mayfly-config-test-XXXXXX";
};

TEST(ParseConfigFile, MakesCommandsInTheOrderToCarryThemOut) {
  const auto commands = config_commands(R"({
      "serial": {"serial_out_path": "/s"}, "boot-source": {"kernel_image_path": "/k"}, "cpu-config": {},
      "machine-config": {"vcpu_count": 2, "mem_size_mib": 64}, "metrics": {"metrics_path": "/m"}, "logger": {}})");
  ASSERT_TRUE(commands) << commands.error().message;
  ASSERT_EQ(commands->size(), 7U);
  EXPECT_TRUE(std::holds_alternative<PutLogger>((*commands)[0]));
  EXPECT_TRUE(std::holds_alternative<PutMetrics>((*commands)[1]));
  EXPECT_EQ(std::get<PutMachineConfig>((*commands)[2]).value.vcpu_count, 2U);
  EXPECT_TRUE(std::holds_alternative<PutCpuConfig>((*commands)[3]));
  EXPECT_EQ(std::get<PutBootSource>((*commands)[4]).value.kernel_image_path, "/k");
  EXPECT_TRUE(std::holds_alternative<PutSerial>((*commands)[5]));
  EXPECT_TRUE(std::holds_alternative<StartInstance>((*commands)[6]));
}

TEST(ParseConfigFile, KeepsTheOrderOfDrivesAndInterfaces) {
  const auto commands = config_commands(R"({
      "network-interfaces": [{"iface_id": "eth1", "host_dev_name": "tap1"}, {"iface_id": "eth0", "host_dev_name": "t"}],
      "serial": {}, "boot-source": {"kernel_image_path": "/k"},
      "drives": [{"drive_id": "z", "path_on_host": "/z", "is_root_device": false},
                 {"drive_id": "a", "path_on_host": "/a", "is_root_device": true}]})");
  ASSERT_TRUE(commands) << commands.error().message;
  ASSERT_EQ(commands->size(), 7U);
  EXPECT_TRUE(std::holds_alternative<PutBootSource>((*commands)[0]));
  EXPECT_EQ(std::get<PutDrive>((*commands)[1]).value.drive_id, "z");
  EXPECT_EQ(std::get<PutDrive>((*commands)[2]).value.drive_id, "a");
  EXPECT_EQ(std::get<PutNetworkInterface>((*commands)[3]).value.iface_id, "eth1");
  EXPECT_EQ(std::get<PutNetworkInterface>((*commands)[4]).value.iface_id, "eth0");
  EXPECT_TRUE(std::holds_alternative<PutSerial>((*commands)[5]));
  EXPECT_EQ(config_commands(R"({"boot-source": {"kernel_image_path": "/k"}, "drives": [],
                                  "network-interfaces": null})")
                .value_or(std::vector<Command>{})
                .size(),
            2U);
}

TEST(ParseConfigFile, ErrorsOfDrivesAndInterfacesNameTheirPlace) {
  const auto with = [](std::string_view section) {
    return file_refusal(fmt::format(R"({{"boot-source": {{"kernel_image_path": "/k"}}, {}}})", section));
  };
  EXPECT_EQ(with(R"("drives": {})"), "drives must be an array, not an object");
  EXPECT_EQ(with(R"("drives": [null])"), "drives[0] must be a JSON object, not null");
  EXPECT_EQ(with(R"("drives": [{"drive_id": "a", "path_on_host": "/a", "is_root_device": true}, {"drive_id": "b"}])"),
            R"(drives[1] needs the field "path_on_host")");
  EXPECT_EQ(with(R"("drives": [{"drive_id": "a", "path_on_host": "/a", "is_root_device": true},
                               {"drive_id": "a", "path_on_host": "/b", "is_root_device": false}])"),
            R"(drives[1]: the id "a" is there twice; give each its own)");
  EXPECT_EQ(with(R"("network-interfaces": [{"iface_id": "e", "host_dev_name": "t0"},
                                           {"iface_id": "e", "host_dev_name": "t1"}])"),
            R"(network-interfaces[1]: the id "e" is there twice; give each its own)");
  EXPECT_EQ(with(R"("network-interfaces": 7)"), "network-interfaces must be an array, not 7");
  EXPECT_EQ(with(R"("network-interfaces": [{"iface_id": "a", "host_dev_name": "t",
                                            "tx_rate_limiter": {"ops": {"size": -1, "refill_time": 1}}}])"),
            "network-interfaces[0].tx_rate_limiter.ops.size must be from 0 to 9223372036854775807, not -1");
}

TEST(ParseConfigFile, AKernelIsAllItNeeds) {
  const auto commands = config_commands(R"({"boot-source": {"kernel_image_path": "/k"}, "machine-config": null})");
  ASSERT_TRUE(commands) << commands.error().message;
  EXPECT_EQ(commands->size(), 2U);
}

TEST(ParseConfigFile, DevicesThatAreAbsentMayBeEmptyOrNull) {
  EXPECT_TRUE(config_commands(R"({"boot-source": {"kernel_image_path": "/k"}, "balloon": null, "vsock": null,
      "mmds-config": null, "entropy": null, "pmem": [], "memory-hotplug": null, "cpu-config": null})"));
  EXPECT_EQ(file_refusal(R"({"boot-source": {"kernel_image_path": "/k"}, "pmem": [{}]})"),
            fmt::format("pmem: Mayfly has no such device; leave the section out. It has {}", kDevicesThatExist));
  EXPECT_EQ(file_refusal(R"({"boot-source": {"kernel_image_path": "/k"}, "vsock": {}})"),
            fmt::format("vsock: Mayfly has no such device; leave the section out. It has {}", kDevicesThatExist));
}

TEST(ParseConfigFile, EveryErrorNamesItsSection) {
  EXPECT_EQ(file_refusal(""), "the configuration is empty, where a JSON object is needed");
  EXPECT_EQ(file_refusal("[]"), "the configuration must be a JSON object, not an array");
  EXPECT_EQ(file_refusal("{}"), R"(the configuration needs the field "boot-source")");
  EXPECT_EQ(file_refusal(R"({"boot-source": {}})"), R"(boot-source needs the field "kernel_image_path")");
  EXPECT_EQ(file_refusal(R"({"boot-source": {"kernel_image_path": "/k"}, "logger": {"level": 1}})"),
            "logger.level must be one of Error, Warning, Info, Debug, Trace, Off, not 1");
  EXPECT_EQ(file_refusal(R"({"boot-source": [], "machine": {}})"),
            R"(boot-source must be a JSON object, not an array; it has unknown sections: "machine")");
  EXPECT_EQ(file_refusal(R"({"boot-source": {"kernel_image_path": "/k"}, "logger": {}, "logger": {}})"),
            R"(the configuration has the field "logger" twice)");
}

TEST(ParseConfigFile, UnknownSectionsAreToldAndHaveNoEffect) {
  EXPECT_EQ(in_words(std::vector<std::string>(8, "a")), R"("a", "a", "a", "a", "a", "a", "a", "a")");
  EXPECT_TRUE(in_words(std::vector<std::string>(10, "a")).ends_with(R"(, "a" and 2 more)"));
  const auto file = parse_config_file(R"({"_comment": "mine", "boot-source": {"kernel_image_path": "/k"}, "drive": [],
                                          "$schema": 7, "_comment": 1})");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->commands.size(), 2U);
  EXPECT_EQ(file->unknown_sections, (std::vector<std::string>{"_comment", "drive", "$schema", "_comment"}));
  EXPECT_EQ(file_refusal(R"({"boot-source": {"kernel_image_path": "/k", "_comment": ""}})"),
            R"(boot-source has no field "_comment"; its fields are kernel_image_path, initrd_path, boot_args)");
}

TEST(ParseConfigFile, ACpuTemplateMayStandInAFileOfItsOwn) {
  const TextFile file{R"({"msr_modifiers": [{"addr": "0x10a", "bitmap": "0b1"}]})"};
  const auto with = [](const std::string& path) {
    return fmt::format(R"({{"boot-source": {{"kernel_image_path": "/k"}}, "cpu-config": "{}"}})", path);
  };
  const auto commands = config_commands(with(file.path()));
  ASSERT_TRUE(commands) << commands.error().message;
  EXPECT_EQ(std::get<PutCpuConfig>((*commands)[0]).value.msrs[0].address, 0x10AU);

  EXPECT_EQ(file_refusal(with("/nowhere/template")),
            "cpu-config: the CPU template \"/nowhere/template\" cannot be opened: No such file or directory (ENOENT)");
  EXPECT_EQ(file_refusal(with("/tmp")),
            "cpu-config: the CPU template \"/tmp\" cannot be read: Is a directory (EISDIR)");
  EXPECT_EQ(file_refusal(with("/dev/zero")), "cpu-config: the CPU template \"/dev/zero\" has over 1048576 bytes");
  const TextFile broken{"{"};
  EXPECT_EQ(file_refusal(with(broken.path())),
            "the CPU template \"" + broken.path() +
                "\" is not valid JSON: a comma, colon, bracket, brace or quotation mark is missing or superfluous");
}

TEST(ReadCpuConfigFile, WaitsForAPipe) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const OwnedFd read_end{ends[0]};
  OwnedFd write_end{ends[1]};
  const auto has_begun = [thread = ::gettid()] {  // it waits in read(2) or poll(2)
    std::ifstream file{fmt::format("/proc/self/task/{}/stat", thread)};
    std::string text;
    std::getline(file, text);
    return text.substr(text.rfind(')') + 1).starts_with(" S");
  };
  const std::jthread writer{[&] {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{10};
    while (!has_begun() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    constexpr std::string_view kTemplate = R"({"msr_modifiers": [{"addr": "0x10a", "bitmap": "0b1"}]})";
    EXPECT_EQ(::write(write_end.get(), kTemplate.data(), kTemplate.size()), static_cast<ssize_t>(kTemplate.size()));
    write_end.reset();
  }};
  const auto config = read_cpu_config_file(fmt::format("/dev/fd/{}", read_end.get()), "here");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->msrs.at(0).address, 0x10AU);
}

/// The configuration that commands make, as the controller would keep it.
VmConfig configured_by(const std::vector<Command>& commands) {
  VmConfig config;
  for (const Command& command : commands) {
    if (const auto* put = std::get_if<PutLogger>(&command)) config.logger = put->value;
    if (const auto* put = std::get_if<PutMetrics>(&command)) config.metrics = put->value;
    if (const auto* put = std::get_if<PutMachineConfig>(&command)) config.machine = put->value;
    if (const auto* put = std::get_if<PutCpuConfig>(&command)) config.cpu = put->value;
    if (const auto* put = std::get_if<PutBootSource>(&command)) config.boot_source = put->value;
    if (const auto* put = std::get_if<PutSerial>(&command)) config.serial = put->value;
    if (const auto* put = std::get_if<PutMmdsConfig>(&command)) config.mmds = put->value;
    if (const auto* put = std::get_if<PutDrive>(&command)) config.drives.push_back(put->value);
    if (const auto* put = std::get_if<PutNetworkInterface>(&command)) config.network_interfaces.push_back(put->value);
  }
  return config;
}

TEST(ParseConfigFile, WhatVmConfigTellsCanBeLoadedAgain) {
  const std::string bits = "0b1" + std::string(31, 'x');
  const std::string text = fmt::format(
      R"({{"boot-source":{{"kernel_image_path":"/k","initrd_path":"/i","boot_args":"a \"b\""}},)"
      R"("machine-config":{{"vcpu_count":4,"mem_size_mib":96,"smt":true,"track_dirty_pages":true,)"
      R"("huge_pages":"None"}},)"
      R"("cpu-config":{{"kvm_capabilities":["!56"],"cpuid_modifiers":[{{"leaf":"0x1","subleaf":"0x0","flags":0,)"
      R"("modifiers":[{{"register":"eax","bitmap":"{0}"}},{{"register":"ecx","bitmap":"{0}"}}]}},)"
      R"({{"leaf":"0x1","subleaf":"0x1","flags":0,"modifiers":[{{"register":"ebx","bitmap":"{0}"}}]}}],)"
      R"("msr_modifiers":[{{"addr":"0x10a","bitmap":"0b{1}"}}]}},)"
      R"("drives":[{{"drive_id":"root","path_on_host":"/r","base_paths":["/b","/l"],"is_root_device":true,"is_read_only":true,)"
      R"("partuuid":"0eaa91a0-01","cache_type":"Writeback","io_engine":"Async","direct":true,"discard":"Unmap","rate_limiter":)"
      R"({{"bandwidth":{{"size":1,"refill_time":2,"one_time_burst":3}},)"
      R"("ops":{{"size":4,"refill_time":5,"one_time_burst":0}}}}}},)"
      R"({{"drive_id":"data","path_on_host":"/d","base_path":"/b","is_root_device":false,"is_read_only":false,)"
      R"("cache_type":"Unsafe","direct":false,"discard":"Ignore","rate_limiter":{{}}}}],)"
      R"("network-interfaces":[{{"iface_id":"eth1","host_dev_name":"tap1","guest_mac":"06:00:ac:10:00:02",)"
      R"("mtu":1500,"check_source_mac":true,"rx_rate_limiter":{{"ops":)"
      R"({{"size":9223372036854775807,"refill_time":9223372036854775807,"one_time_burst":9223372036854775807}}}},)"
      R"("tx_rate_limiter":{{"bandwidth":{{"size":0,"refill_time":0,"one_time_burst":0}}}}}},)"
      R"({{"iface_id":"eth0","host_dev_name":"tap0","check_source_mac":false}}],)"
      R"("mmds-config":{{"version":"V2","network_interfaces":["eth0"],"ipv4_address":"169.254.170.2",)"
      R"("imds_compat":true}},)"
      R"("logger":{{"log_path":"/l","level":"Warning","show_level":true,"show_log_origin":false,"module":"m"}},)"
      R"("metrics":{{"metrics_path":"/m","emit_id":true,"properties":{{"a":"b","c":"d"}}}},)"
      R"("serial":{{"serial_out_path":"/s","rate_limiter":{{"size":1,"refill_time":2,"one_time_burst":3}}}}}})",
      bits, std::string(64, '0'));
  const auto commands = config_commands(text);
  ASSERT_TRUE(commands) << commands.error().message;
  EXPECT_EQ(vm_config_json(configured_by(*commands)), text);
}

}  // namespace
}  // namespace mayfly
