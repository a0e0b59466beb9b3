#include "api/schema.h"
#include "tests/unit/api/parsed_requests.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(DriveJson, ReadsADrive) {
  const auto whole = command<PutDrive>("PUT", "/drives/rootfs", R"({
      "drive_id": "rootfs", "path_on_host": "/r", "is_root_device": true, "is_read_only": true,
      "partuuid": "0eaa91a0-01", "cache_type": "Writeback", "io_engine": "Async", "direct": true,
      "discard": "Unmap", "socket": null,
      "rate_limiter": {"bandwidth": {"size": 1, "refill_time": 2, "one_time_burst": 3},
                       "ops": {"size": 4, "refill_time": 5}}})");
  EXPECT_EQ(whole.value.drive_id, "rootfs");
  EXPECT_EQ(whole.value.path_on_host, "/r");
  EXPECT_TRUE(whole.value.is_root_device);
  EXPECT_TRUE(whole.value.is_read_only);
  EXPECT_EQ(whole.value.partuuid, "0eaa91a0-01");
  EXPECT_EQ(whole.value.cache_type, CacheType::Writeback);
  EXPECT_EQ(whole.value.io_engine, "Async");
  EXPECT_TRUE(whole.value.direct);
  EXPECT_EQ(whole.value.discard, Discard::Unmap);
  ASSERT_TRUE(whole.value.rate_limiter && whole.value.rate_limiter->bandwidth && whole.value.rate_limiter->ops);
  EXPECT_EQ(whole.value.rate_limiter->bandwidth->size, 1U);
  EXPECT_EQ(whole.value.rate_limiter->bandwidth->refill_time_ms, 2U);
  EXPECT_EQ(whole.value.rate_limiter->bandwidth->one_time_burst, 3U);
  EXPECT_EQ(whole.value.rate_limiter->ops->size, 4U);
  EXPECT_EQ(whole.value.rate_limiter->ops->one_time_burst, 0U);
  const auto least = command<PutDrive>("PUT", "/drives/d_1-x",
                                       R"({"drive_id": "d_1-x", "path_on_host": "d", "is_root_device": false})");
  EXPECT_FALSE(least.value.is_root_device);
  EXPECT_FALSE(least.value.is_read_only);
  EXPECT_EQ(least.value.partuuid, std::nullopt);
  EXPECT_EQ(least.value.cache_type, CacheType::Unsafe);
  EXPECT_EQ(least.value.io_engine, std::nullopt);
  EXPECT_FALSE(least.value.direct);
  EXPECT_EQ(least.value.discard, Discard::Ignore);
  EXPECT_FALSE(least.value.rate_limiter);
}

TEST(DriveJson, LayersAreOneOrSeveral) {
  const auto layers = [](std::string_view field) {
    return command<PutDrive>(
               "PUT", "/drives/d",
               fmt::format(R"({{"drive_id": "d", "path_on_host": "/o", "is_root_device": false{}}})", field))
        .value.base_paths;
  };
  using Paths = std::vector<std::string>;
  EXPECT_EQ(layers(""), Paths{});
  EXPECT_EQ(layers(R"(, "base_path": null)"), Paths{});
  EXPECT_EQ(layers(R"(, "base_path": "/b")"), Paths{"/b"});
  EXPECT_EQ(layers(R"(, "base_paths": ["/b", "/l"])"), (Paths{"/b", "/l"}));
}

/// The refusal of PUT /drives/d with the given fields beside the id.
std::string refused_drive(std::string_view fields) {
  return refusal("PUT", "/drives/d", fmt::format(R"({{"drive_id": "d"{}{}}})", fields.empty() ? "" : ", ", fields));
}

TEST(DriveJson, RefusesABadDrive) {
  EXPECT_EQ(refusal("PUT", "/drives/d", R"({"path_on_host": "/d", "is_root_device": true})"),
            R"(drives/d needs the field "drive_id")");
  EXPECT_EQ(refused_drive(R"("is_root_device": true)"), R"(drives/d needs the field "path_on_host")");
  EXPECT_EQ(refused_drive(R"("path_on_host": "/d")"), R"(drives/d needs the field "is_root_device")");
  EXPECT_EQ(refused_drive(R"("path_on_host": "", "is_root_device": true)"),
            "drives/d.path_on_host is empty, where a path is needed");
  EXPECT_EQ(refused_drive(R"("path_on_host": "/d", "is_root_device": "yes")"),
            R"(drives/d.is_root_device must be true or false, not the string "yes")");
  const auto refused = [](std::string_view field) {
    return refused_drive(fmt::format(R"("path_on_host": "/d", "is_root_device": true, {})", field));
  };
  EXPECT_EQ(refused(R"("base_path": "")"), "drives/d.base_path is empty, where a path is needed");
  EXPECT_EQ(refused(R"("base_paths": [])"),
            "drives/d.base_paths is empty; name the layers, the raw image first, or leave it out");
  EXPECT_EQ(refused(R"("base_path": "/b", "base_paths": ["/b"])"),
            "drives/d has base_path and base_paths; leave one of them out");
  EXPECT_EQ(refused(R"("cache_type": "writeback")"),
            R"(drives/d.cache_type must be one of Unsafe, Writeback, not "writeback")");
  EXPECT_EQ(refused(R"("io_engine": "Uring")"), R"(drives/d.io_engine must be one of Sync, Async, not "Uring")");
  EXPECT_EQ(refused(R"("discard": true)"), "drives/d.discard must be one of Ignore, Unmap, not true");
  EXPECT_EQ(refused(R"("is_read_only": 1)"), "drives/d.is_read_only must be true or false, not 1");
  EXPECT_EQ(refused(R"("direct": "O_DIRECT")"), R"(drives/d.direct must be true or false, not the string "O_DIRECT")");
  EXPECT_EQ(refused(R"("socket": "/s")"),
            "drives/d.socket is not available: Mayfly has no vhost-user drives; leave it out and give path_on_host");
  EXPECT_EQ(refused(R"("rate_limiter": {"bandwidth": {"size": 1}})"),
            R"(drives/d.rate_limiter.bandwidth needs the field "refill_time")");
  EXPECT_EQ(refused(R"("rate_limiter": {"ops": {"size": 9223372036854775808, "refill_time": 1}})"),
            "drives/d.rate_limiter.ops.size must be from 0 to 9223372036854775807, not 9223372036854775808");
  EXPECT_EQ(refused(R"("rate_limiter": {"bytes": {}})"),
            R"(drives/d.rate_limiter has no field "bytes"; its fields are bandwidth, ops)");
  EXPECT_NE(refused(R"("path": "/d")").find(R"(drives/d has no field "path"; its fields are )"), std::string::npos);
}

TEST(DriveJson, ADriveOfVhostUserIsRefusedAsSuch) {
  EXPECT_EQ(refused_drive(R"("is_root_device": true, "socket": "/s")"),
            "drives/d.socket is not available: Mayfly has no vhost-user drives; leave it out and give path_on_host");
}

TEST(DriveJson, APartuuidIsOneWordOfTheCommandLine) {
  const auto body = [](std::string_view partuuid) {
    return fmt::format(R"({{"drive_id": "d", "path_on_host": "/d", "is_root_device": true, "partuuid": "{}"}})",
                       partuuid);
  };
  for (const std::string_view good :
       {"0eaa91a0-01", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "00112233-4455-6677-8899-AABBCCDDEEFF/PARTNROFF=1"}) {
    command<PutDrive>("PUT", "/drives/d", body(good));
  }
  EXPECT_EQ(refusal("PUT", "/drives/d", body("a init=/bin/sh")),
            "drives/d.partuuid must be a partition's UUID, such as \"0eaa91a0-01\", not the string \"a init=/bin/sh\"");
  for (const std::string_view bad : {"", " ", "a\\u0000", "a\\n", "a,b", "a\\\"b"})
    EXPECT_NE(refusal("PUT", "/drives/d", body(bad)).find("drives/d.partuuid must be "), std::string::npos) << bad;
  refusal("PUT", "/drives/d", body(std::string(65, 'a')));
}

TEST(DriveJson, ReadsAPatchOfADrive) {
  const auto both = command<PatchDrive>("PATCH", "/drives/d", R"({"drive_id": "d", "path_on_host": "/new",
                                        "rate_limiter": {"ops": {"size": 0, "refill_time": 0}}})");
  EXPECT_EQ(both.value.drive_id, "d");
  EXPECT_EQ(both.value.path_on_host, "/new");
  ASSERT_TRUE(both.value.rate_limiter);
  EXPECT_FALSE(both.value.rate_limiter->bandwidth);
  EXPECT_EQ(both.value.rate_limiter->ops->size, 0U);
  command<PatchDrive>("PATCH", "/drives/d", R"({"drive_id": "d", "path_on_host": "/new"})");
  command<PatchDrive>("PATCH", "/drives/d", R"({"drive_id": "d", "rate_limiter": {}})");
  EXPECT_EQ(refusal("PATCH", "/drives/d", R"({"drive_id": "d", "path_on_host": null})"),
            "drives/d has no field to change: give path_on_host, rate_limiter or both");
  EXPECT_EQ(refusal("PATCH", "/drives/d", R"({"drive_id": "d", "path_on_host": "/d", "is_read_only": true})"),
            R"(drives/d has no field "is_read_only"; its fields are drive_id, path_on_host, rate_limiter)");
  EXPECT_EQ(refusal("PATCH", "/drives/d", R"({"path_on_host": "/d"})"), R"(drives/d needs the field "drive_id")");
}

}  // namespace
}  // namespace mayfly
