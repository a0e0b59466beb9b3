#include "snapshot/describe.h"

#include "api/json_reader.h"
#include "tests/unit/snapshot/filled_snapshot.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(Describe, PrintsJsonInTheOrderOfTheFile) {
  const std::string text = describe_snapshot(testing::filled_snapshot());
  const auto json = parse_json(text, "the description");
  ASSERT_TRUE(json) << json.error().message;
  std::vector<std::string> names;
  for (const JsonMember& member : std::get<JsonValue::Object>(json->data)) names.push_back(member.name);
  EXPECT_EQ(names, (std::vector<std::string>{"format", "id", "producer", "host", "machine", "cpu", "boot_source",
                                             "mmds", "clock", "vcpus", "platform", "drives", "network_interfaces",
                                             "host_kernel", "channels", "streams"}));
}

TEST(Describe, WritesValuesAsTheyAreRead) {
  Snapshot snapshot = testing::filled_snapshot();
  snapshot.id.fill(0xAB);
  snapshot.vcpus[0].regs.rip = 0xFFFF'FFFF'8100'0000;
  kvm_segment& code = snapshot.vcpus[0].sregs.cs;
  code = {};
  code.limit = 0xFFFF'FFFF;
  code.selector = 0x10;
  code.type = 11;
  code.present = 1;
  snapshot.vcpus[0].msrs = {{.index = 0xC000'0080, .reserved = 0, .data = 0xD01}};
  snapshot.vcpus[0].xcrs = {};
  snapshot.drives[0].config.cache_type = CacheType::Writeback;
  snapshot.drives[0].device.image.modified_ns = -5;
  const std::string text = describe_snapshot(snapshot);
  EXPECT_TRUE(text.starts_with(R"({"format":1,"id":"abababababababababababababababab","producer":"0.1.0","host":)"
                               R"({"vendor":"GenuineIntel","family":6,"model":143,"stepping":8},"machine":)"
                               R"({"vcpu_count":2,"mem_size_mib":128,"smt":true,"track_dirty_pages":true,)"
                               R"("huge_pages":"None"})"))
      << text.substr(0, 400);
  EXPECT_TRUE(has(text, R"("rip":"0xffffffff81000000")"));
  EXPECT_TRUE(has(text, R"("cs":{"base":"0x0","limit":"0xffffffff","selector":"0x10","type":11,"present":1,)"));
  EXPECT_TRUE(has(text, R"("msrs":[{"index":"0xc0000080","data":"0xd01"}])"));
  EXPECT_TRUE(has(text, R"("xcrs":"000000)"));
  EXPECT_TRUE(has(text, R"("register":"edx")"));
  EXPECT_TRUE(has(text, R"("cache_type":"Writeback")"));
  EXPECT_TRUE(has(text, R"("modified_ns":-5)"));
  EXPECT_TRUE(has(text, R"("guest_mac":"06:00:ac:10:00:02")"));
  EXPECT_TRUE(has(text, R"("mmds":{"version":"V2","network_interfaces":["eth0","eth1"],)"
                        R"("ipv4_address":"169.254.170.2","imds_compat":true})"));
  EXPECT_TRUE(has(text, R"("descriptors":"0x10000")"));
  EXPECT_TRUE(has(text, R"("receive_heads":[3,5])"));
}

TEST(Describe, LeavesOutWhatIsNotThere) {
  Snapshot least;
  least.vcpus.resize(1);
  const std::string text = describe_snapshot(least);
  EXPECT_FALSE(has(text, "boot_source"));
  EXPECT_FALSE(has(text, R"("cpu")"));
  EXPECT_TRUE(has(text, R"("drives":[],"network_interfaces":[],"host_kernel":"","channels":[],"streams":[]})"));
  EXPECT_TRUE(parse_json(text, "the description"));
}

}  // namespace
}  // namespace mayfly
