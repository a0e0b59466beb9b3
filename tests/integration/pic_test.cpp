// A guest that knows only the 8259As and the PIT, and one that masks a drive's pin of the IOAPIC, by the API.

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
  static void round(Monitor& monitor, unsigned number) {
    monitor.type("r");
    monitor.console_until("round " + std::to_string(number) + " ok");
  }
  static void expect_pass(Monitor& monitor) {
    const std::string console = monitor.console_to_end();
    EXPECT_NE(console.find("GUEST PASS"), std::string::npos) << console << monitor.log_until("");
    EXPECT_EQ(monitor.wait(), 0);
  }
  static void end(Monitor& monitor) {
    monitor.type("q");
    expect_pass(monitor);
  }
  [[nodiscard]] HttpAnswer create(Monitor& monitor, const std::string& name) const {
    return monitor.put("/snapshot/create", R"({"snapshot_path": ")" + scratch_.file(name + ".state") +
                                               R"(", "mem_file_path": ")" + scratch_.file(name + ".mem") + "\"}");
  }
  [[nodiscard]] HttpAnswer load(Monitor& monitor, const std::string& name) const {
    return monitor.put("/snapshot/load", R"({"snapshot_path": ")" + scratch_.file(name + ".state") +
                                             R"(", "mem_backend": {"backend_type": "File", "backend_path": ")" +
                                             scratch_.file(name + ".mem") + R"("}, "resume_vm": true})");
  }
  ScratchDirectory scratch_;
};

TEST_F(PicTest, AGuestThatKnowsOnlyThe8259sGetsTheInterruptsOfTimerSerialPortAndDrives) {
  for (const char* const guest : {"pic", "pic.linux64"}) {
    Monitor monitor;
    add_drives(monitor, 4);  // the fourth is the slave's
    monitor.boot(guest, "console=ttyS0 drives=4");
    expect_pass(monitor);
  }
}

TEST_F(PicTest, OneOfManyVcpusTakesThem) {
  Monitor monitor;
  must(monitor.put("/machine-config", R"({"mem_size_mib": 128, "vcpu_count": 4})"));
  add_drives(monitor, 1);
  monitor.boot("pic", "console=ttyS0 drives=1");
  expect_pass(monitor);
}

TEST_F(PicTest, ASnapshotKeepsItTicking) {
  Monitor first;
  first.boot("pic", "console=ttyS0 stay=1");  // a drive could not be the clone's as well
  first.console_until("pic ready");
  round(first, 1);
  for (unsigned i = 0; i < 10; ++i) {  // wherever between ticks it is
    must(first.patch("/vm", R"({"state": "Paused"})"));
    must(create(first, "one"));
    {
      Monitor clone;
      must(load(clone, "one"));
      round(clone, i + 2);
      end(clone);
    }
    must(first.patch("/vm", R"({"state": "Resumed"})"));
    round(first, i + 2);
  }
  end(first);
}

TEST_F(PicTest, ADriveThatInterruptedAMaskedPinOfTheIoapicInterruptsWhenItIsUnmasked) {
  Monitor monitor;
  add_drives(monitor, 1);
  monitor.boot("masked_pin");
  expect_pass(monitor);
}

}  // namespace
}  // namespace mayfly::testing
