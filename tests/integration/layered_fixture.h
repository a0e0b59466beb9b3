#pragma once

#include "tests/integration/snapshot_fixture.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <csignal>
#include <cstdint>
#include <cstring>
#include <string>

namespace mayfly::testing {

/// Machines of the bare-metal `block` guest whose drive `data` lies over one base.
class LayeredTest : public SnapshotTest {
 protected:
  static constexpr std::size_t kBaseBytes = 8 << 20;

  LayeredTest() {
    for (std::uint64_t at = 0; at < image_.size(); at += sizeof at) std::memcpy(&image_[at], &at, sizeof at);
    make_file(base_, image_);
  }
  /// A drive over the base.
  [[nodiscard]] std::string drive(const std::string& overlay, const std::string& more = "") const {
    return R"({"drive_id": "data", "is_root_device": false, "cache_type": "Writeback", "base_path": ")" + base_ +
           R"(", "path_on_host": ")" + file(overlay) + '"' + more + "}";
  }
  [[nodiscard]] std::string overridden(const std::string& overlay, const std::string& more = "") const {
    return R"(, "resume_vm": true, "drive_overrides": [{"drive_id": "data", "path_on_host": ")" + file(overlay) + '"' +
           more + "}]";
  }
  static void expect_pass(Monitor& monitor) {
    const std::string console = monitor.console_to_end();
    EXPECT_NE(console.find("GUEST PASS"), std::string::npos) << console << monitor.log_until("");
    EXPECT_EQ(monitor.wait(), 0);
  }
  /// Runs the guest until it has written, takes a snapshot `one` of it, and ends it.
  void snapshot_busy(const std::string& drive) {
    Monitor monitor;
    must(monitor.put("/drives/data", drive));
    monitor.boot("block", "console=ttyS0 until_key=1");
    monitor.console_until("round 2 done");
    pause(monitor);
    must(create(monitor, "one"));
    monitor.signal(SIGTERM);  // its locks end with it, as they do not at once with one that is killed
    (void)monitor.wait();
  }
  void expect_base_unchanged() const { EXPECT_TRUE(content_of(base_) == image_); }

  std::string image_ = std::string(kBaseBytes, '\0');
  std::string base_ = file("base");
};

}  // namespace mayfly::testing
