// What the API accepts, a snapshot keeps and gives back: the extremes of every field, through the state file.

#include "api/schema.h"
#include "snapshot/state_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::string_view kMostLimits =
    R"({"bandwidth": {"size": 9223372036854775807, "refill_time": 9223372036854775807,
                      "one_time_burst": 9223372036854775807},
        "ops": {"size": 0, "refill_time": 0, "one_time_burst": 0}})";

template <typename Read>
auto accepted(Read read, const std::string& json) {
  const auto value = parse_json(json, "test");
  EXPECT_TRUE(value) << value.error().message;
  auto result = read(*value, "test");
  EXPECT_TRUE(result) << result.error().message << " in " << json;
  return *std::move(result);
}

template <typename Write, typename Config>
std::string text_of(Write write, const Config& config) {
  JsonWriter json;
  write(json, config);
  return std::move(json).take();
}

/// The least machine with `change` made to it, written and read.
template <typename Change>
Snapshot through_the_file(Change change) {
  Snapshot snapshot;
  change(snapshot);
  snapshot.vcpus.resize(snapshot.machine.vcpu_count);
  const auto bytes = encode_loadable(snapshot);
  EXPECT_TRUE(bytes) << bytes.error().message;
  auto read = decode_snapshot(*bytes);
  EXPECT_TRUE(read) << read.error().message;
  return *std::move(read);
}

TEST(SnapshotLimits, EveryMachineThatMayBeConfiguredIsRead) {
  for (const std::string_view vcpus : {"1", "32"})
    for (const std::string_view memory : {"2", "1048576"})
      for (const std::string_view pages : {"None", "Transparent", "2M"})
        for (const std::string_view flag : {"false", "true"}) {
          const auto machine = accepted(
              read_machine_config,
              fmt::format(
                  R"({{"vcpu_count": {0}, "mem_size_mib": {1}, "huge_pages": "{2}", "smt": {3}, "track_dirty_pages": {3}}})",
                  vcpus, memory, pages, flag));
          const Snapshot read = through_the_file([&](Snapshot& snapshot) { snapshot.machine = machine; });
          EXPECT_EQ(text_of(write_machine_config, read.machine), text_of(write_machine_config, machine));
        }
}

TEST(SnapshotLimits, EveryBootSourceThatMayBeConfiguredIsRead) {
  for (const std::string& arguments :
       {std::string{}, std::string(kMaximumCommandLine, 'a'), std::string{"\\u00ff\\u0001"}}) {
    const auto source = accepted(read_boot_source,
                                 fmt::format(R"({{"kernel_image_path": "{}", "initrd_path": "i", "boot_args": "{}"}})",
                                             std::string(4095, 'k'), arguments));
    const Snapshot read = through_the_file([&](Snapshot& snapshot) { snapshot.boot_source = source; });
    EXPECT_EQ(text_of(write_boot_source, *read.boot_source), text_of(write_boot_source, source));
  }
}

TEST(SnapshotLimits, EveryCpuThatMayBeConfiguredIsRead) {
  std::string registers;
  for (const std::string_view name : {"eax", "ebx", "ecx", "edx"})
    registers += fmt::format(R"({}{{"register": "{}", "bitmap": "0b{}"}})", registers.empty() ? "" : ", ", name,
                             std::string(32, '1'));
  std::string leaves;
  std::string msrs;
  for (int i = 0; i < 1000; ++i) {
    leaves +=
        fmt::format(R"({}{{"leaf": "0xffffffff", "subleaf": "0xffffffff", "flags": 4294967295, "modifiers": [{}]}})",
                    i == 0 ? "" : ", ", registers);
    msrs += fmt::format(R"({}{{"addr": "0xffffffff", "bitmap": "0b{}"}})", i == 0 ? "" : ", ", std::string(64, '1'));
  }
  const auto cpu = accepted(
      read_cpu_config,
      fmt::format(R"({{"kvm_capabilities": ["4294967295", "!0"], "cpuid_modifiers": [{}], "msr_modifiers": [{}]}})",
                  leaves, msrs));
  const Snapshot read = through_the_file([&](Snapshot& snapshot) { snapshot.cpu = cpu; });
  EXPECT_EQ(text_of(write_cpu_config, *read.cpu), text_of(write_cpu_config, cpu));
}

TEST(SnapshotLimits, EveryDriveThatMayBeConfiguredIsRead) {
  for (const std::string_view cache : {"Unsafe", "Writeback"})
    for (const std::string_view engine : {"Sync", "Async"})
      for (const std::string_view flag : {"false", "true"}) {
        const auto drive = accepted(
            read_drive,
            fmt::format(
                R"({{"drive_id": "{0}", "path_on_host": "{1}", "is_root_device": {2}, "is_read_only": {2}, "direct": {2},
                     "partuuid": "{0}", "cache_type": "{3}", "io_engine": "{4}", "rate_limiter": {5}}})",
                std::string(64, '_'), std::string(4095, 'p'), flag, cache, engine, kMostLimits));
        const Snapshot read = through_the_file([&](Snapshot& snapshot) {
          snapshot.drives.resize(kMaximumVirtioDevices);
          for (DriveState& each : snapshot.drives) each.config = drive;
        });
        ASSERT_EQ(read.drives.size(), kMaximumVirtioDevices);
        EXPECT_EQ(text_of(write_drive, read.drives.back().config), text_of(write_drive, drive));
      }
}

TEST(SnapshotLimits, EveryInterfaceThatMayBeConfiguredIsRead) {
  for (const std::string_view mtu : {"68", "65535"})
    for (const std::string_view flag : {"false", "true"}) {
      const auto interface =
          accepted(read_network_interface,
                   fmt::format(
                       R"({{"iface_id": "{0}", "host_dev_name": "{1}", "guest_mac": "fe:ff:ff:ff:ff:ff", "mtu": {2},
                   "check_source_mac": {3}, "rx_rate_limiter": {4}, "tx_rate_limiter": {4}}})",
                       std::string(64, '-'), std::string(15, 't'), mtu, flag, kMostLimits));
      const Snapshot read = through_the_file([&](Snapshot& snapshot) {
        snapshot.network_interfaces.resize(kMaximumVirtioDevices);
        for (NetworkInterfaceState& each : snapshot.network_interfaces) each.config = interface;
      });
      ASSERT_EQ(read.network_interfaces.size(), kMaximumVirtioDevices);
      EXPECT_EQ(text_of(write_network_interface, read.network_interfaces.back().config),
                text_of(write_network_interface, interface));
    }
}

TEST(SnapshotLimits, EveryMetadataServiceThatMayBeConfiguredIsRead) {
  for (const std::string_view version : {"V1", "V2"})
    for (const std::string_view address : {"169.254.1.0", "169.254.254.255"})
      for (const std::string_view flag : {"false", "true"}) {
        const auto mmds = accepted(
            read_mmds_config,
            fmt::format(
                R"({{"version": "{}", "network_interfaces": ["e", "e"], "ipv4_address": "{}", "imds_compat": {}}})",
                version, address, flag));
        const Snapshot read = through_the_file([&](Snapshot& snapshot) {
          snapshot.network_interfaces.resize(1);
          snapshot.network_interfaces[0].config.iface_id = "e";
          snapshot.mmds = mmds;
        });
        EXPECT_EQ(text_of(write_mmds_config, *read.mmds), text_of(write_mmds_config, mmds));
      }
}

}  // namespace
}  // namespace mayfly
