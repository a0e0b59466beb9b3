// `mayfly restore` and `"paths": "Named"` with state files that name what is elsewhere on this host.

#include "tests/integration/kvm_required.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <filesystem>

namespace mayfly::testing {
namespace {

/// A snapshot in `pair/` of a machine whose drive is `elsewhere/disk`: read-only, for the kernel closes the ring of a
/// process, and with it the lock of an image that is written, some time after the process's end.
class RestorePathsTest : public KvmTest {
 protected:
  void SetUp() override {
    KvmTest::SetUp();
    if (IsSkipped()) return;
    std::filesystem::create_directories(file("pair"));
    std::filesystem::create_directories(file("elsewhere"));
    make_file(disk(), std::string(1 << 20, 'd'));
    Monitor monitor;
    const auto must = [](const HttpAnswer& answer) { ASSERT_EQ(answer.status, 204) << answer.body; };
    must(monitor.put(
        "/drives/data",
        R"({"drive_id": "data", "is_root_device": false, "is_read_only": true, "path_on_host": ")" + disk() + "\"}"));
    monitor.boot("survivor");
    monitor.console_until("survivor ready");
    must(monitor.patch("/vm", R"({"state": "Paused"})"));
    must(monitor.put("/snapshot/create", R"({"snapshot_path": ")" + file("pair/state") + R"(", "mem_file_path": ")" +
                                             file("pair/memory") + "\"}"));
  }
  [[nodiscard]] std::string file(const std::string& name) const { return scratch_.file(name); }
  [[nodiscard]] std::string disk() const { return file("elsewhere/disk"); }
  [[nodiscard]] std::string elsewhere() const { return "drive data (" + disk() + ", to be read)"; }

  struct Outcome {
    int code = 0;
    std::string said;
  };
  /// `mayfly restore`, whose guest is told to end where it goes on.
  [[nodiscard]] Outcome restore(const std::vector<std::string>& more) const {
    std::vector<std::string> words = {monitor_binary(),   "restore",  "--state",
                                      file("pair/state"), "--memory", file("pair/memory")};
    words.insert(words.end(), more.begin(), more.end());
    Pipe in, err;
    if (::write(in.write.get(), "q", 1) != 1) give_up("a pipe takes nothing");
    ChildProcess process{words, {.in = in.read.get(), .out = -1, .err = err.write.get()}};
    err.write.reset();
    Outcome outcome;
    read_until(err.read.get(), outcome.said, "");
    outcome.code = process.wait();
    return outcome;
  }
  [[nodiscard]] std::string load(const std::string& more) const {
    return R"({"snapshot_path": ")" + file("pair/state") +
           R"(", "mem_backend": {"backend_type": "File", "backend_path": ")" + file("pair/memory") + "\"}" + more + "}";
  }

 private:
  ScratchDirectory scratch_;
};

TEST_F(RestorePathsTest, OnATerminalNothingIsOpenedThatNobodyNamed) {
  const Outcome refused = restore({});
  EXPECT_EQ(refused.code, 152) << refused.said;
  EXPECT_NE(refused.said.find(elsewhere()), std::string::npos) << refused.said;
  EXPECT_NE(refused.said.find("--trust-paths"), std::string::npos) << refused.said;
  const Outcome named = restore({"--drive", "data=" + disk()});
  EXPECT_EQ(named.code, 0) << named.said;
  const Outcome trusted = restore({"--trust-paths"});
  EXPECT_EQ(trusted.code, 0) << trusted.said;
}

TEST_F(RestorePathsTest, ALoadThatSaysNamedIsRefusedAndOneThatDoesNotIsAsTheDialectHasIt) {
  Monitor monitor;
  const HttpAnswer refused = monitor.put("/snapshot/load", load(R"(, "paths": "Named")"));
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find(elsewhere()), std::string::npos) << refused.body;
  const HttpAnswer loaded = monitor.put("/snapshot/load", load(""));
  EXPECT_EQ(loaded.status, 204) << loaded.body;
}

TEST_F(RestorePathsTest, AnImageBesideTheStateIsOpened) {
  std::filesystem::rename(disk(), file("pair/disk"));
  std::filesystem::create_symlink(file("pair/disk"), disk());
  const Outcome link = restore({});  // what the state names is not beside it, wherever it leads
  EXPECT_EQ(link.code, 152) << link.said;
  EXPECT_NE(link.said.find(elsewhere()), std::string::npos) << link.said;
  // The whole of both directories, moved as one is unpacked that came from elsewhere.
  std::filesystem::remove(disk());
  std::filesystem::rename(file("pair/disk"), disk());
  std::filesystem::rename(file("pair/state"), file("state"));
  std::filesystem::create_symlink(file("state"), file("pair/state"));
  Monitor monitor;
  const std::string above = R"({"snapshot_path": ")" + file("state") + R"(", "paths": "Named",
      "mem_backend": {"backend_type": "File", "backend_path": ")" +
                            file("pair/memory") + "\"}}";
  const HttpAnswer loaded = monitor.put("/snapshot/load", above);
  EXPECT_EQ(loaded.status, 204) << loaded.body;
}

}  // namespace
}  // namespace mayfly::testing
