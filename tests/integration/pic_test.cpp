// A guest that masks a drive's pin of the IOAPIC, by the API.

#include "tests/integration/kvm_required.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <fstream>

namespace mayfly::testing {
namespace {

class PicTest : public KvmTest {
 protected:
  void add_drives(Monitor& monitor, unsigned count) const {
    for (unsigned i = 0; i < count; ++i) {
      const std::string id = "drive" + std::to_string(i);
      const std::string path = scratch_.file(id);
      std::ofstream{path} << std::string(4096, 'x');
      must(monitor.put("/drives/" + id,
                       R"({"drive_id": ")" + id + R"(", "is_root_device": false, "path_on_host": ")" + path + "\"}"));
    }
  }
  static void must(const HttpAnswer& answer) { ASSERT_EQ(answer.status, 204) << answer.body; }
  static void expect_pass(Monitor& monitor) {
    const std::string console = monitor.console_to_end();
    EXPECT_NE(console.find("GUEST PASS"), std::string::npos) << console << monitor.log_until("");
    EXPECT_EQ(monitor.wait(), 0);
  }
  ScratchDirectory scratch_;
};

TEST_F(PicTest, ADriveThatInterruptedAMaskedPinOfTheIoapicInterruptsWhenItIsUnmasked) {
  Monitor monitor;
  add_drives(monitor, 1);
  monitor.boot("masked_pin");
  expect_pass(monitor);
}

}  // namespace
}  // namespace mayfly::testing
