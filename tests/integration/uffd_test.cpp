// Machines restored through a page server (tests/support/page_server.cpp).

#include "tests/integration/kvm_required.h"
#include "tests/integration/page_server_process.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"
#include "tests/support/user_faults.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <future>

namespace mayfly::testing {
namespace {

void must(const HttpAnswer& answer) { ASSERT_EQ(answer.status, 204) << answer.body; }

class UffdTest : public KvmTest {
 protected:
  void SetUp() override {
    KvmTest::SetUp();
    if (!IsSkipped() && !user_faults_are_permitted()) GTEST_SKIP() << "userfaultfd is not permitted";
  }

  [[nodiscard]] std::string file(const std::string& name) const { return scratch_.file(name); }

  /// Snapshots a guest after its first round to NAME.state and NAME.mem.
  void freeze(const std::string& name, const std::string& machine, const std::string& boot_args = "console=ttyS0") {
    Monitor monitor;
    must(monitor.put("/machine-config", machine));
    monitor.boot("survivor", boot_args);
    monitor.console_until("survivor ready");
    round(monitor, 1);
    snapshot(monitor, name);
  }
  void snapshot(Monitor& monitor, const std::string& name, const std::string& type = "Full") {
    must(monitor.patch("/vm", R"({"state": "Paused"})"));
    must(monitor.put("/snapshot/create", R"({"snapshot_type": ")" + type + R"(", "snapshot_path": ")" +
                                             file(name + ".state") + R"(", "mem_file_path": ")" + file(name + ".mem") +
                                             "\"}"));
    must(monitor.patch("/vm", R"({"state": "Resumed"})"));
  }
  [[nodiscard]] HttpAnswer load(Monitor& monitor, const std::string& name, const std::string& backend,
                                const std::string& path, const std::string& more = "") const {
    return monitor.put("/snapshot/load", R"({"snapshot_path": ")" + file(name + ".state") +
                                             R"(", "resume_vm": true, "mem_backend": {"backend_type": ")" + backend +
                                             R"(", "backend_path": ")" + path + "\"}" + more + "}");
  }
  void restore_from_file(Monitor& monitor, const std::string& name) const {
    must(load(monitor, name, "File", file(name + ".mem")));
  }
  /// Of a restored guest: it checks all that it knows.
  static void round(Monitor& monitor, unsigned number) {
    monitor.type("r");
    monitor.console_until("round " + std::to_string(number) + " ok");
  }
  static void end(Monitor& monitor) {
    monitor.type("q");
    EXPECT_NE(monitor.console_to_end().find("GUEST PASS"), std::string::npos);
    EXPECT_EQ(monitor.wait(), 0);
  }

  ScratchDirectory scratch_;
};

TEST_F(UffdTest, TheGuestNoticesNothing) {
  freeze("one", R"({"mem_size_mib": 128, "vcpu_count": 2})");
  const PageServerProcess server{file("pages"), file("one.mem")};
  Monitor monitor;
  must(load(monitor, "one", "Uffd", file("pages")));
  round(monitor, 2);
  round(monitor, 3);
  end(monitor);
}

TEST_F(UffdTest, ServersServeSeveralClonesOfOneFile) {
  freeze("one", R"({"mem_size_mib": 128, "vcpu_count": 1})");
  for (const char* socket : {"first", "second"}) {
    const PageServerProcess server{file(socket), file("one.mem")};
    Monitor monitor;
    must(load(monitor, "one", "Uffd", file(socket)));
    round(monitor, 2);
    end(monitor);
  }
}

TEST_F(UffdTest, MemoryOnBothSidesOfTheHole) {
  freeze("one", R"({"mem_size_mib": 3400, "vcpu_count": 4})", "console=ttyS0 dirty_mib=16");
  const PageServerProcess server{file("pages"), file("one.mem")};
  Monitor monitor;
  must(load(monitor, "one", "Uffd", file("pages")));
  round(monitor, 2);
  end(monitor);
}

TEST_F(UffdTest, AFullSnapshotHasAlsoWhatTheGuestNeverAskedFor) {
  freeze("one", R"({"mem_size_mib": 64, "vcpu_count": 1})");
  {
    const PageServerProcess server{file("pages"), file("one.mem")};
    Monitor monitor;
    must(load(monitor, "one", "Uffd", file("pages")));
    snapshot(monitor, "two");  // before the guest has looked at its pages
    round(monitor, 2);
    snapshot(monitor, "three");
    end(monitor);
  }
  Monitor second;
  restore_from_file(second, "two");
  round(second, 2);
  end(second);
  Monitor third;
  restore_from_file(third, "three");
  round(third, 3);
  end(third);
}

TEST_F(UffdTest, ADiffGoesOntoTheMemoryThatTheServerHas) {
  freeze("one", R"({"mem_size_mib": 64, "vcpu_count": 1})");
  const PageServerProcess server{file("pages"), file("one.mem")};
  Monitor monitor;
  must(load(monitor, "one", "Uffd", file("pages"), R"(, "track_dirty_pages": true)"));
  round(monitor, 2);
  snapshot(monitor, "diff", "Diff");
  end(monitor);
  ChildProcess merge{{monitor_binary(), "snapshot", "merge", "--base", file("one.mem"), "--diff", file("diff.mem"),
                      "--output", file("diff.mem")},
                     {}};
  ASSERT_EQ(merge.wait(), 0);
  Monitor again;
  restore_from_file(again, "diff");
  round(again, 3);
  end(again);
}

TEST_F(UffdTest, AMachineWhoseServerHasDiedCanBeToldToStop) {
  freeze("one", R"({"mem_size_mib": 64, "vcpu_count": 1})");
  Monitor monitor;
  {
    const PageServerProcess server{file("pages"), file("one.mem")};
    must(load(monitor, "one", "Uffd", file("pages")));
    monitor.type("t");
    monitor.console_until("ticks ");
  }
  monitor.type("r");  // the guest waits for its pages, and perhaps a worker of KVM's on its behalf
  must(monitor.patch("/vm", R"({"state": "Paused"})"));
  monitor.signal(SIGTERM);
  EXPECT_EQ(monitor.wait(), 128 + SIGTERM);
}

// --- Servers that others wrote

/// After the dialect's example: they want the memory file to be RAM and nothing else, and take the end of the connection
/// for the machine's.
class OthersPageServers : public UffdTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    UffdTest::SetUp();
    if (!IsSkipped() && ::access(program().c_str(), X_OK) != 0) GTEST_SKIP() << program() << " is missing (rustc)";
  }
  [[nodiscard]] static std::string program() {
    const std::string language = GetParam();
    return language == "Rust" ? build_file("tests/support/rust_page_server")
                              : project_file("tests/support/page_server.py");
  }
  /// Two rounds of a machine whose memory is NAME.mem, and its end, of which the server hears.
  void serve(const std::string& name, unsigned round_number) {
    PageServerProcess server{file("pages-" + name), file(name + ".mem"), program()};
    Monitor monitor;
    must(load(monitor, name, "Uffd", file("pages-" + name)));
    round(monitor, round_number);
    round(monitor, round_number + 1);
    end(monitor);
    EXPECT_NE(server.said_to_its_end().find("the machine has ended: "), std::string::npos);
  }
};

TEST_P(OthersPageServers, ServeAMachineToItsEnd) {
  freeze("one", R"({"mem_size_mib": 128, "vcpu_count": 2})");
  serve("one", 2);
}

TEST_P(OthersPageServers, ServeMemoryOnBothSidesOfTheHole) {
  freeze("one", R"({"mem_size_mib": 3400, "vcpu_count": 2})", "console=ttyS0 dirty_mib=16");
  serve("one", 2);
}

/// As the dialect's tools make one file of a base and a diff: they copy the data of the diff, wherever it has no holes.
TEST_P(OthersPageServers, ServeABaseWithADiffCopiedOntoIt) {
  {
    Monitor monitor;
    must(monitor.put("/machine-config", R"({"mem_size_mib": 64, "vcpu_count": 1, "track_dirty_pages": true})"));
    monitor.boot("survivor");
    monitor.console_until("survivor ready");
    round(monitor, 1);
    snapshot(monitor, "base");
    round(monitor, 2);
    snapshot(monitor, "diff", "Diff");
    end(monitor);
  }
  ASSERT_EQ((ChildProcess{
                {"/usr/bin/python3", project_file("tests/support/copy_data"), file("diff.mem"), file("base.mem")}, {}}
                 .wait()),
            0);
  std::filesystem::rename(file("base.mem"), file("diff.mem"));
  serve("diff", 3);
  Monitor monitor;
  restore_from_file(monitor, "diff");
  round(monitor, 3);
  end(monitor);
}

INSTANTIATE_TEST_SUITE_P(All, OthersPageServers, ::testing::Values("Python", "Rust"),
                         [](const auto& language) { return std::string{language.param}; });

// --- Servers that are none

/// The load is refused with a sentence that has `words`; nothing is left of it, so that a good one goes through.
class UffdRefusalTest : public UffdTest {
 protected:
  void SetUp() override {
    UffdTest::SetUp();
    if (!IsSkipped()) freeze("one", R"({"mem_size_mib": 64, "vcpu_count": 1})");
  }
  void expect_refused(Monitor& monitor, const std::string& socket, const std::string& words) {
    const HttpAnswer refused = load(monitor, "one", "Uffd", socket);
    EXPECT_EQ(refused.status, 400);
    EXPECT_NE(refused.body.find(words), std::string::npos) << refused.body;
    EXPECT_NE(monitor.get("/").body.find("Not started"), std::string::npos);
    restore_from_file(monitor, "one");
    round(monitor, 2);
    end(monitor);
  }
};

TEST_F(UffdRefusalTest, NothingIsThere) {
  Monitor monitor;
  expect_refused(monitor, file("none"), "none: no page server to connect to: No such file or directory");
}

TEST_F(UffdRefusalTest, TheSocketsServerHasEnded) {
  {
    const PageServerProcess server{file("pages"), file("one.mem")};
  }
  Monitor monitor;
  expect_refused(monitor, file("pages"), "pages: no page server to connect to: Connection refused");
}

TEST_F(UffdRefusalTest, ThePathIsNoSocket) {
  Monitor monitor;
  expect_refused(monitor, file("one.mem"), "one.mem: no page server to connect to: Connection refused");
}

TEST_F(UffdRefusalTest, ThePathIsTooLong) {
  Monitor monitor;
  expect_refused(monitor, file(std::string(108, 'x')), "and the kernel takes at most 107");
}

TEST_F(UffdRefusalTest, TheServerHangsUpAtOnce) {
  const OwnedFd listener{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  file("pages").copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_TRUE(listener);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  const auto server = std::async(std::launch::async,
                                 [&] { OwnedFd{::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)}.reset(); });
  Monitor monitor;
  expect_refused(monitor, file("pages"), "pages: the page server ");  // before or after it was sent the message
  server.wait();
}

TEST_F(UffdRefusalTest, TheServerHangsUpBeforeTheMessage) {
  if (::access("/usr/bin/strace", X_OK) != 0) GTEST_SKIP() << "strace is missing";
  const PageServerProcess server{file("pages"), file("one.mem")};
  // What the kernel says then; a server that really did would be late at times. Without filters, which would be asked
  // about number -1.
  Monitor monitor{{"--no-seccomp"},
                  {"/usr/bin/env", "ASAN_OPTIONS=detect_leaks=0", "/usr/bin/strace", "-f", "-qq", "-o", "/dev/null",
                   "-e", "trace=sendmsg", "-e", "inject=sendmsg:error=EPIPE:when=1"}};
  expect_refused(monitor, file("pages"), "pages: the page server does not take the memory: Broken pipe");
}

}  // namespace
}  // namespace mayfly::testing
