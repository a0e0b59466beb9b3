#pragma once

#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <optional>

#include <gtest/gtest.h>

namespace mayfly::testing {

inline constexpr uid_t kJailUid = 61'234;
inline constexpr gid_t kJailGid = 61'235;

/// A cgroup that a test can ask for: on hosts with pure version 2, and on those with version 1.
struct TestCgroup {
  std::vector<std::string> flags;
  std::string parent;  ///< The directory in which the machine's is made.
};

/// Jails in a base directory of the test's own, a fresh file system that only this process and its children see. Needs
/// root.
class JailTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "jails need root";
    static const bool has_own_mounts =
        ::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    if (!has_own_mounts) GTEST_SKIP() << "a mount namespace of its own is not permitted";
    std::filesystem::create_directory(base());
    ASSERT_EQ(::mount("base", base().c_str(), "tmpfs", 0, "mode=755"), 0);
  }
  void TearDown() override {
    ::umount2(base().c_str(), MNT_DETACH);
    if (const auto cgroup = find_cgroup()) {
      ::rmdir((cgroup->parent + "/vm").c_str());  // of a jail that a failed test left
      ::rmdir(cgroup->parent.c_str());
    }
  }

  struct Outcome {
    int code = 0;  ///< As ChildProcess::wait().
    std::string said;
  };
  /// Runs the jailer to its end, or to the monitor's.
  static Outcome run(const std::vector<std::string>& arguments, const std::vector<std::string>& launcher = {}) {
    Pipe err;
    std::vector<std::string> all = launcher;
    all.push_back(jailer_binary());
    all.insert(all.end(), arguments.begin(), arguments.end());
    ChildProcess process{all, {.in = -1, .out = -1, .err = err.write.get()}};
    err.write.reset();
    Outcome outcome;
    read_until(err.read.get(), outcome.said, "");
    outcome.code = process.wait();
    return outcome;
  }

  /// The flags of a jail, and more.
  [[nodiscard]] std::vector<std::string> jail(const std::string& id, const std::string& exec_file,
                                              const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"--id",
                                    id,
                                    "--exec-file",
                                    exec_file,
                                    "--uid",
                                    std::to_string(kJailUid),
                                    "--gid",
                                    std::to_string(kJailGid),
                                    "--chroot-base-dir",
                                    base()};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  [[nodiscard]] Outcome clean_up(const std::string& id, const std::string& exec_file,
                                 const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"cleanup", id, "--exec-file", exec_file, "--chroot-base-dir", base()};
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  }

  /// This process's own: cgroups are the host's, and other builds' tests may run at the same time.
  static std::string parent_cgroup() { return "mayfly-test-" + std::to_string(::getpid()); }
  static std::optional<TestCgroup> find_cgroup() {
    const std::string top = "/sys/fs/cgroup", parent = parent_cgroup();
    if (::access((top + "/cgroup.controllers").c_str(), F_OK) == 0)
      return TestCgroup{{"--cgroup-version", "2", "--cgroup", "pids.max=99", "--parent-cgroup", parent},
                        top + "/" + parent};
    if (::access((top + "/pids/cgroup.procs").c_str(), F_OK) == 0)
      return TestCgroup{{"--cgroup", "pids.max=99", "--parent-cgroup", parent}, top + "/pids/" + parent};
    return std::nullopt;
  }

  [[nodiscard]] std::string base() const { return scratch_.file("base"); }
  [[nodiscard]] std::string file(const std::string& name) const { return scratch_.file(name); }
  [[nodiscard]] std::string folder(const std::string& exec_name, const std::string& id) const {
    return base() + "/" + exec_name + "/" + id;
  }

 private:
  ScratchDirectory scratch_;
};

}  // namespace mayfly::testing
