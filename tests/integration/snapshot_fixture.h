#pragma once

#include "tests/integration/kvm_required.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <string>
#include <vector>

namespace mayfly::testing {

/// Snapshots of the guest "survivor", which notices what is lost (tests/guests/survivor.cpp).
class SnapshotTest : public KvmTest {
 protected:
  [[nodiscard]] std::string file(const std::string& name) const { return scratch_.file(name); }

  void boot(Monitor& monitor, const std::string& machine = R"("mem_size_mib": 128, "vcpu_count": 1)",
            const std::string& boot_args = "console=ttyS0") {
    must(monitor.put("/machine-config", "{" + machine + "}"));
    monitor.boot("survivor", boot_args);
    monitor.console_until("survivor ready");
  }
  static void must(const HttpAnswer& answer) { ASSERT_EQ(answer.status, 204) << answer.body; }
  static void pause(Monitor& monitor) { must(monitor.patch("/vm", R"({"state": "Paused"})")); }
  static void resume(Monitor& monitor) { must(monitor.patch("/vm", R"({"state": "Resumed"})")); }

  [[nodiscard]] HttpAnswer create(Monitor& monitor, const std::string& name, const std::string& type = "Full") const {
    return monitor.put("/snapshot/create", R"({"snapshot_type": ")" + type + R"(", "snapshot_path": ")" +
                                               file(name + ".state") + R"(", "mem_file_path": ")" +
                                               file(name + ".mem") + "\"}");
  }
  [[nodiscard]] HttpAnswer load(Monitor& monitor, const std::string& state, const std::string& memory,
                                const std::string& more = R"(, "resume_vm": true)") const {
    return monitor.put("/snapshot/load", R"({"snapshot_path": ")" + file(state) +
                                             R"(", "mem_backend": {"backend_type": "File", "backend_path": ")" +
                                             file(memory) + "\"}" + more + "}");
  }
  /// The same of several memory files, the base first.
  [[nodiscard]] HttpAnswer load(Monitor& monitor, const std::string& state, const std::vector<std::string>& memory,
                                const std::string& more = R"(, "resume_vm": true)") const {
    std::string paths;
    for (const std::string& each : memory) paths += (paths.empty() ? "\"" : ", \"") + file(each) + '"';
    return monitor.put("/snapshot/load", R"({"snapshot_path": ")" + file(state) +
                                             R"(", "mem_backend": {"backend_type": "File", "backend_paths": [)" +
                                             paths + "]}" + more + "}");
  }
  /// The next round of the guest, which checks everything.
  static void round(Monitor& monitor, unsigned number) {
    monitor.type("r");
    monitor.console_until("round " + std::to_string(number) + " ok");
  }
  static void end(Monitor& monitor) {
    monitor.type("q");
    const std::string console = monitor.console_to_end();
    EXPECT_NE(console.find("GUEST PASS"), std::string::npos) << console << monitor.log_until("");
    EXPECT_EQ(monitor.wait(), 0);
  }

  ScratchDirectory scratch_;
};

}  // namespace mayfly::testing
