#include "api/schema.h"
#include "tests/unit/api/parsed_requests.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

SnapshotLoadParams loaded(std::string_view fields) {
  return command<LoadSnapshot>("PUT", "/snapshot/load", fmt::format(R"({{"snapshot_path": "/s", {}}})", fields)).value;
}

std::string refused_load(std::string_view fields) {
  return refusal("PUT", "/snapshot/load", fmt::format(R"({{"snapshot_path": "/s", {}}})", fields));
}

/// The refusal of a load with a memory file and one field more.
std::string refused_with(std::string_view field) {
  return refused_load(fmt::format(R"("mem_file_path": "/m", {})", field));
}

std::string refused_create(std::string_view body) { return refusal("PUT", "/snapshot/create", body); }

TEST(SnapshotJson, ReadsWhatIsToBeCreated) {
  const auto full =
      command<CreateSnapshot>("PUT", "/snapshot/create", R"({"snapshot_path": "/s", "mem_file_path": "/m"})").value;
  EXPECT_EQ(full.snapshot_path, "/s");
  EXPECT_EQ(full.mem_file_path, "/m");
  EXPECT_FALSE(full.diff);
  const auto of_type = [](std::string_view type) {
    return command<CreateSnapshot>(
               "PUT", "/snapshot/create",
               fmt::format(R"({{"snapshot_path": "/s", "mem_file_path": "/m", "snapshot_type": {}}})", type))
        .value.diff;
  };
  EXPECT_EQ(command<CreateSnapshot>("PUT", "/snapshot/create", R"({"snapshot_path": "/s", "snapshot_type": "Full"})")
                .value.mem_file_path,
            "");
  EXPECT_TRUE(of_type(R"("Diff")"));
  EXPECT_FALSE(of_type(R"("Full")"));
  EXPECT_FALSE(of_type("null"));
}

TEST(SnapshotJson, ALiveSnapshotIsACommandOfItsOwn) {
  const auto live = command<CreateLiveSnapshot>(
                        "PUT", "/snapshot/create",
                        R"({"snapshot_path": "/s", "mem_file_path": "/m", "snapshot_type": "Diff", "live": true})")
                        .value;
  EXPECT_EQ(live.snapshot_path, "/s");
  EXPECT_TRUE(live.diff);
  EXPECT_TRUE(live.live);
  EXPECT_FALSE(command<CreateSnapshot>("PUT", "/snapshot/create",
                                       R"({"snapshot_path": "/s", "mem_file_path": "/m", "live": false})")
                   .value.live);
  EXPECT_EQ(refused_create(R"({"snapshot_path": "/s", "mem_file_path": "/m", "live": 1})"),
            "snapshot/create.live must be true or false, not 1");
}

TEST(SnapshotJson, RefusesABadCreation) {
  EXPECT_EQ(refused_create(R"({"mem_file_path": "/m"})"), R"(snapshot/create needs the field "snapshot_path")");
  EXPECT_EQ(refused_create(R"({"snapshot_path": "/s", "mem_file_path": ""})"),
            "snapshot/create.mem_file_path is empty, where a path is needed");
  EXPECT_EQ(refused_create(R"({"snapshot_path": "", "mem_file_path": "/m"})"),
            "snapshot/create.snapshot_path is empty, where a path is needed");
  EXPECT_EQ(refused_create(R"({"snapshot_path": "/s", "mem_file_path": 7})"),
            "snapshot/create.mem_file_path must be a string, not 7");
  EXPECT_EQ(refused_create(R"({"snapshot_path": "/s", "mem_file_path": "/m", "snapshot_type": "full"})"),
            R"(snapshot/create.snapshot_type must be one of Full, Diff, not "full")");
  EXPECT_EQ(
      refused_create(R"({"snapshot_path": "/s", "mem_file_path": "/m", "diff": true})"),
      R"(snapshot/create has no field "diff"; its fields are snapshot_path, mem_file_path, snapshot_type, live, frozen_drives, max_copied_mib)");
  EXPECT_EQ(refused_create(R"({"snapshot_path": "/s", "mem_file_path": "/m", "frozen_drives": [{"drive_id": "d"}]})"),
            R"(snapshot/create.frozen_drives[0] needs the field "path_on_host")");
  EXPECT_EQ(refused_create(R"({"snapshot_path": "/s", "mem_file_path": "/m", "frozen_drives": [
                              {"drive_id": "d", "path_on_host": "/f"}, {"drive_id": "d", "path_on_host": "/g"}]})"),
            R"(snapshot/create.frozen_drives[1] is for "d" once more; name each device once)");
  EXPECT_EQ(refused_create(R"({"snapshot_path": "/s", "snapshot_path": "/t", "mem_file_path": "/m"})"),
            R"(snapshot/create has the field "snapshot_path" twice)");
}

TEST(SnapshotJson, ReadsWhatIsToBeLoaded) {
  const auto whole = loaded(R"(
      "mem_backend": {"backend_type": "Uffd", "backend_path": "/u"}, "track_dirty_pages": true, "resume_vm": true,
      "clock_realtime": false, "allow_changed_drives": true, "paths": "Named", "huge_pages": "2M",
      "vsock_override": null,
      "network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap7"}, {"iface_id": "e1", "host_dev_name": "t",
                             "guest_mac": "06:00:AC:10:00:02"}],
      "drive_overrides": [{"drive_id": "rootfs", "path_on_host": "/copy"}])");
  EXPECT_EQ(whole.snapshot_path, "/s");
  EXPECT_EQ(whole.backend, MemoryBackend::Uffd);
  EXPECT_EQ(whole.backend_paths, std::vector<std::string>{"/u"});
  EXPECT_TRUE(whole.track_dirty_pages);
  EXPECT_TRUE(whole.resume_vm);
  EXPECT_FALSE(whole.clock_realtime);
  EXPECT_TRUE(whole.allow_changed_drives);
  EXPECT_EQ(whole.paths, StatePaths::Named);
  EXPECT_EQ(whole.huge_pages, HugePages::Explicit2M);
  ASSERT_EQ(whole.network_overrides.size(), 2U);
  EXPECT_EQ(whole.network_overrides[0].iface_id, "eth0");
  EXPECT_EQ(whole.network_overrides[0].host_dev_name, "tap7");
  EXPECT_EQ(whole.network_overrides[0].guest_mac, std::nullopt);
  EXPECT_EQ(whole.network_overrides[1].guest_mac, (MacAddress{0x06, 0x00, 0xAC, 0x10, 0x00, 0x02}));
  ASSERT_EQ(whole.drive_overrides.size(), 1U);
  EXPECT_EQ(whole.drive_overrides[0].drive_id, "rootfs");
  EXPECT_EQ(whole.drive_overrides[0].path_on_host, "/copy");

  const auto least = loaded(R"("mem_backend": {"backend_type": "File", "backend_path": "/m"})");
  EXPECT_EQ(least.backend, MemoryBackend::File);
  EXPECT_EQ(least.backend_paths, std::vector<std::string>{"/m"});
  EXPECT_FALSE(least.track_dirty_pages);
  EXPECT_FALSE(least.resume_vm);
  EXPECT_TRUE(least.clock_realtime);
  EXPECT_FALSE(least.allow_changed_drives);
  EXPECT_EQ(least.paths, StatePaths::Trusted) << "as clients of the dialect expect";
  EXPECT_EQ(least.huge_pages, std::nullopt);
  EXPECT_TRUE(least.network_overrides.empty());
  EXPECT_TRUE(least.drive_overrides.empty());
}

TEST(SnapshotJson, OnlyMappedMemoryIsRevertible) {
  EXPECT_TRUE(loaded(R"("mem_file_path": "/m", "revertible": true)").revertible);
  EXPECT_TRUE(loaded(R"("mem_file_path": "/m", "revertible": true, "working_set": {"mode": "Replay", "path": "/w"})")
                  .revertible);
  EXPECT_FALSE(loaded(R"("mem_file_path": "/m")").revertible);
  EXPECT_EQ(
      refused_load(R"("mem_backend": {"backend_type": "Uffd", "backend_path": "/u"}, "revertible": true)"),
      "snapshot/load.revertible is for memory of files, whose pages show again; leave it out with the page server");
}

TEST(SnapshotJson, ReadsARevert) {
  const auto reverted = [](std::string_view body) {
    return command<RevertSnapshot>("PUT", "/snapshot/revert", body).value;
  };
  EXPECT_FALSE(reverted("{}").resume_vm);
  EXPECT_TRUE(reverted("{}").clock_realtime);
  EXPECT_TRUE(reverted(R"({"resume_vm": true})").resume_vm);
  EXPECT_FALSE(reverted(R"({"clock_realtime": false})").clock_realtime);
  EXPECT_NE(refusal("PUT", "/snapshot/revert", R"({"resume": true})").find("resume"), std::string::npos);
}

TEST(SnapshotJson, ReadsTheDialectsOlderNames) {
  const auto old = loaded(R"("mem_file_path": "/m", "enable_diff_snapshots": true)");
  EXPECT_EQ(old.backend, MemoryBackend::File);
  EXPECT_EQ(old.backend_paths, std::vector<std::string>{"/m"});
  EXPECT_TRUE(old.track_dirty_pages);
  EXPECT_TRUE(
      loaded(R"("mem_file_path": "/m", "enable_diff_snapshots": true, "track_dirty_pages": false)").track_dirty_pages)
      << "either name counts";
  EXPECT_TRUE(
      loaded(R"("mem_file_path": "/m", "enable_diff_snapshots": false, "track_dirty_pages": true)").track_dirty_pages);
  EXPECT_FALSE(
      loaded(R"("mem_file_path": "/m", "enable_diff_snapshots": false, "track_dirty_pages": false)").track_dirty_pages);
}

TEST(SnapshotJson, HugePagesAreTheSnapshotsUnlessOthersAreNamed) {
  const auto pages = [](std::string_view name) {
    return loaded(fmt::format(R"("mem_file_path": "/m", "huge_pages": "{}")", name)).huge_pages;
  };
  EXPECT_EQ(pages("Snapshot"), std::nullopt);
  EXPECT_EQ(pages("None"), HugePages::None);
  EXPECT_EQ(pages("Transparent"), HugePages::Transparent);
  EXPECT_EQ(pages("2M"), HugePages::Explicit2M);
  EXPECT_EQ(refused_with(R"("huge_pages": "1G")"),
            R"(snapshot/load.huge_pages must be one of Snapshot, None, Transparent, 2M, not "1G")");
}

TEST(SnapshotJson, ReadsAChainOfMemoryFiles) {
  const auto chain = loaded(R"("mem_backend": {"backend_type": "File", "backend_paths": ["/b", "/d", "/e"]})");
  EXPECT_EQ(chain.backend, MemoryBackend::File);
  EXPECT_EQ(chain.backend_paths, (std::vector<std::string>{"/b", "/d", "/e"}));
}

TEST(SnapshotJson, TheMemoryIsNamedExactlyOnce) {
  EXPECT_EQ(refusal("PUT", "/snapshot/load", R"({"snapshot_path": "/s"})"),
            "snapshot/load needs exactly one of mem_backend and mem_file_path; give mem_backend");
  EXPECT_EQ(refused_with(R"("mem_backend": {"backend_type": "File", "backend_path": "/m"})"),
            "snapshot/load needs exactly one of mem_backend and mem_file_path; leave mem_file_path out");
  EXPECT_EQ(refused_load(R"("mem_file_path": null)"),
            "snapshot/load needs exactly one of mem_backend and mem_file_path; give mem_backend");
}

TEST(SnapshotJson, RefusesABadBackend) {
  const auto refused = [](std::string_view fields) {
    return refused_load(fmt::format(R"("mem_backend": {{{}}})", fields));
  };
  EXPECT_EQ(refused(R"("backend_path": "/m")"), R"(snapshot/load.mem_backend needs the field "backend_type")");
  EXPECT_EQ(refused(R"("backend_type": "File")"),
            "snapshot/load.mem_backend needs exactly one of backend_path and backend_paths; give backend_path");
  EXPECT_EQ(refused(R"("backend_type": "Memfd", "backend_path": "/m")"),
            R"(snapshot/load.mem_backend.backend_type must be one of File, Uffd, not "Memfd")");
  EXPECT_EQ(refused(R"("backend_type": "File", "backend_path": "")"),
            "snapshot/load.mem_backend.backend_path is empty, where a path is needed");
  EXPECT_EQ(
      refused(R"("backend_type": "File", "backend_path": "/m", "size": 1)"),
      R"(snapshot/load.mem_backend has no field "size"; its fields are backend_type, backend_path, backend_paths)");
  EXPECT_EQ(refused(R"("backend_type": "File", "backend_path": "/m", "backend_paths": ["/b"])"),
            "snapshot/load.mem_backend needs exactly one of backend_path and backend_paths; leave backend_path out");
  EXPECT_EQ(refused(R"("backend_type": "File", "backend_paths": [])"),
            "snapshot/load.mem_backend.backend_paths is empty; name the memory files, the base first");
  EXPECT_EQ(refused(R"("backend_type": "File", "backend_paths": ["/b", ""])"),
            "snapshot/load.mem_backend.backend_paths[1] is empty, where a path is needed");
  EXPECT_EQ(refused(R"("backend_type": "Uffd", "backend_paths": ["/b"])"),
            "snapshot/load.mem_backend.backend_paths is for memory files, and a page server gives all pages by one "
            "socket: name that as backend_path");
  EXPECT_EQ(refused_load(R"("mem_backend": "File")"),
            R"(snapshot/load.mem_backend must be a JSON object, not the string "File")");
}

TEST(SnapshotJson, RefusesValuesOfTheWrongType) {
  for (const std::string_view name :
       {"track_dirty_pages", "enable_diff_snapshots", "resume_vm", "clock_realtime", "allow_changed_drives"})
    EXPECT_EQ(refused_with(fmt::format(R"("{}": 1)", name)),
              fmt::format("snapshot/load.{} must be true or false, not 1", name));
  for (const std::string_view name : {"network_overrides", "drive_overrides"})
    EXPECT_EQ(refused_with(fmt::format(R"("{}": "x")", name)),
              fmt::format(R"(snapshot/load.{} must be an array, not the string "x")", name));
  EXPECT_EQ(refused_with(R"("paths": "Beside")"), R"(snapshot/load.paths must be one of Trusted, Named, not "Beside")");
  EXPECT_EQ(refused_load(R"("mem_file_path": [])"), "snapshot/load.mem_file_path must be a string, not an array");
  EXPECT_EQ(refusal("PUT", "/snapshot/load", R"({"snapshot_path": 1, "mem_file_path": "/m"})"),
            "snapshot/load.snapshot_path must be a string, not 1");
  EXPECT_EQ(refusal("PUT", "/snapshot/load", R"({"mem_file_path": "/m"})"),
            R"(snapshot/load needs the field "snapshot_path")");
  EXPECT_NE(refused_with(R"("resume": true)").find(R"(snapshot/load has no field "resume"; its fields are )"),
            std::string::npos);
}

TEST(SnapshotJson, AnOverrideNamesADeviceAndWhatItGets) {
  const auto network = [](std::string_view list) {
    return refused_with(fmt::format(R"("network_overrides": [{}])", list));
  };
  EXPECT_EQ(network(R"({"host_dev_name": "t"})"), R"(snapshot/load.network_overrides[0] needs the field "iface_id")");
  EXPECT_EQ(network(R"({"iface_id": "a", "host_dev_name": "t"}, {"iface_id": "b"})"),
            R"(snapshot/load.network_overrides[1] needs the field "host_dev_name")");
  EXPECT_NE(network(R"({"iface_id": "a/b", "host_dev_name": "t"})").find("network_overrides[0].iface_id must be "),
            std::string::npos);
  EXPECT_NE(network(R"({"iface_id": "a", "host_dev_name": "a-name-too-long-for-linux"})")
                .find("network_overrides[0].host_dev_name must be "),
            std::string::npos);
  EXPECT_NE(network(R"({"iface_id": "a", "host_dev_name": "t", "guest_mac": "07:00:AC:10:00:02"})")
                .find("network_overrides[0].guest_mac: the MAC address 07:00:AC:10:00:02 is a multicast one"),
            std::string::npos);
  const auto drive = [](std::string_view list) {
    return refused_with(fmt::format(R"("drive_overrides": [{}])", list));
  };
  EXPECT_EQ(drive(R"({"path_on_host": "/d"})"), R"(snapshot/load.drive_overrides[0] needs the field "drive_id")");
  EXPECT_EQ(drive(R"({"drive_id": "d"})"), R"(snapshot/load.drive_overrides[0] needs the field "path_on_host")");
  EXPECT_EQ(drive(R"({"drive_id": "d", "path_on_host": ""})"),
            "snapshot/load.drive_overrides[0].path_on_host is empty, where a path is needed");
}

TEST(SnapshotJson, AnOverriddenDriveMayHaveLayers) {
  const auto load = command<LoadSnapshot>(
      "PUT", "/snapshot/load",
      R"({"snapshot_path": "/s", "mem_backend": {"backend_type": "File", "backend_path": "/m"}, "drive_overrides":
          [{"drive_id": "d", "path_on_host": "/o", "base_path": "/b"}, {"drive_id": "e", "path_on_host": "/p"}]})");
  EXPECT_EQ(load.value.drive_overrides[0].base_paths, std::vector<std::string>{"/b"});
  EXPECT_TRUE(load.value.drive_overrides[1].base_paths.empty());
}

TEST(SnapshotJson, ADeviceIsOverriddenOnce) {
  EXPECT_EQ(refused_with(R"("network_overrides": [{"iface_id": "a", "host_dev_name": "t"},
                {"iface_id": "b", "host_dev_name": "t"}, {"iface_id": "a", "host_dev_name": "u"}])"),
            R"(snapshot/load.network_overrides[2] is for "a" once more; name each device once)");
  EXPECT_EQ(refused_with(R"("drive_overrides": [{"drive_id": "d", "path_on_host": "/1"},
                {"drive_id": "d", "path_on_host": "/2"}])"),
            R"(snapshot/load.drive_overrides[1] is for "d" once more; name each device once)");
}

TEST(SnapshotJson, ThereIsNoVsockToOverride) {
  EXPECT_EQ(refused_with(R"("vsock_override": {"uds_path": "/v"})"),
            "snapshot/load.vsock_override is not available: Mayfly has no vsock device; leave it out");
}

TEST(SnapshotJson, WorkingSets) {
  EXPECT_FALSE(loaded(R"("mem_file_path": "/m")").working_set.has_value());
  const auto read = [](std::string_view text) {
    return *loaded(fmt::format(R"("mem_file_path": "/m", "working_set": {})", text)).working_set;
  };
  const WorkingSetParams replayed = read(R"({"mode": "Replay", "path": "/w"})");
  EXPECT_FALSE(replayed.record);
  EXPECT_EQ(replayed.path, "/w");
  const WorkingSetParams recorded = read(R"({"mode": "Record", "path": "/w"})");
  EXPECT_TRUE(recorded.record);
  EXPECT_FALSE(recorded.until_boot_timer);
  EXPECT_EQ(recorded.for_ms, std::nullopt);
  const WorkingSetParams limited = read(R"({"mode": "Record", "path": "/w", "until_boot_timer": true, "for_ms": 250})");
  EXPECT_TRUE(limited.until_boot_timer);
  EXPECT_EQ(limited.for_ms, 250U);
}

TEST(SnapshotJson, RefusesWorkingSetsThatMakeNoSense) {
  const auto refused = [](std::string_view text) {
    return refused_load(fmt::format(R"("mem_file_path": "/m", "working_set": {})", text));
  };
  EXPECT_EQ(refused("7"), "snapshot/load.working_set must be a JSON object, not 7");
  EXPECT_EQ(refused(R"({"path": "/w"})"), R"(snapshot/load.working_set needs the field "mode")");
  EXPECT_EQ(refused(R"({"mode": "Replay"})"), R"(snapshot/load.working_set needs the field "path")");
  EXPECT_NE(refused(R"({"mode": "Record", "path": "/w", "for_ms": 0})").find("for_ms"), std::string::npos);
  EXPECT_NE(refused(R"({"mode": "Both", "path": "/w"})").find("Record, Replay"), std::string::npos);
  EXPECT_EQ(refused_load(R"("mem_backend": {"backend_type": "Uffd", "backend_path": "/u"},
                            "working_set": {"mode": "Replay", "path": "/w"})"),
            "snapshot/load.working_set is for memory of a file; leave it out with the page server");
}

}  // namespace
}  // namespace mayfly
