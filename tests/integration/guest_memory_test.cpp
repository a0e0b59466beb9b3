// What the host's kernel was told of guest memory, as /proc shows it.

#include "tests/integration/kvm_required.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <sstream>

namespace mayfly::testing {
namespace {

/// KiB of a process's memory that no core dump has ("dd") and no child inherits ("dc"): the flags of proc(5), smaps.
std::uint64_t kept_to_itself_kib(pid_t pid) {
  std::uint64_t sum = 0;
  std::uint64_t size = 0;
  std::istringstream lines{content_of("/proc/" + std::to_string(pid) + "/smaps")};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields{line};
    std::string key;
    fields >> key;
    if (key == "Size:") fields >> size;
    if (key != "VmFlags:") continue;
    const std::string flags = line + " ";
    if (flags.find(" dd ") != std::string::npos && flags.find(" dc ") != std::string::npos) sum += size;
  }
  return sum;
}

class GuestMemoryTest : public KvmTest {
 protected:
  static void expect_kept(Monitor& monitor, std::uint64_t mib) {
    EXPECT_EQ(kept_to_itself_kib(monitor.process().pid()), mib * 1024);
  }
};

TEST_F(GuestMemoryTest, IsInNoCoreDumpAndNotInheritedAlsoInAClone) {
  constexpr std::uint64_t kMib = 3400;  // on both sides of the hole
  const ScratchDirectory scratch;
  const std::string files =
      R"("snapshot_path": ")" + scratch.file("state") + R"(", "mem_file_path": ")" + scratch.file("memory") + "\"";
  {
    Monitor monitor;
    ASSERT_EQ(
        monitor.put("/machine-config", R"({"vcpu_count": 1, "mem_size_mib": )" + std::to_string(kMib) + "}").status,
        204);
    expect_kept(monitor, 0);
    monitor.boot("survivor");  // its file is mapped into its memory
    monitor.console_until("survivor ready");
    expect_kept(monitor, kMib);
    ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
    ASSERT_EQ(monitor.put("/snapshot/create", "{" + files + "}").status, 204);
  }
  Monitor clone;
  const HttpAnswer loaded = clone.put("/snapshot/load", "{" + files + R"(, "resume_vm": true})");
  ASSERT_EQ(loaded.status, 204) << loaded.body;
  expect_kept(clone, kMib);
}

}  // namespace
}  // namespace mayfly::testing
