// Filters of a real monitor's threads: that they are there, can be replaced or left out, and what a violation says.

#include "tests/integration/kvm_required.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <sstream>
#include <thread>

namespace mayfly::testing {
namespace {

/// Of each thread of a process, by its name: the number of its filters.
std::map<std::string, int> filters_of(pid_t pid) {
  std::map<std::string, int> found;
  std::string first;
  for (const auto& task : std::filesystem::directory_iterator{"/proc/" + std::to_string(pid) + "/task"}) {
    std::istringstream status{content_of(task.path() / "status")};
    std::string name;
    for (std::string key; status >> key;) {
      if (key == "Name:") status >> name;
      // The first thread comes first. Another that has not run yet still bears the name of whoever made it.
      if (first.empty()) first = name;
      const bool unnamed = name == first && task.path().filename() != std::to_string(pid);
      if (key == "Seccomp_filters:") status >> found[unnamed ? "not named yet" : name];
    }
  }
  return found;
}

/// How many the process that runs this test is under, as its children are.
int inherited() { return filters_of(::getpid()).begin()->second; }

/// Waits until a thread is under that many filters: it takes its name and its filters when it first runs, which on a
/// busy host is later than what it was made for.
[[nodiscard]] bool has_filters(pid_t pid, const std::string& thread, int wanted) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{60};
  for (;;) {
    const auto filters = filters_of(pid);
    const auto found = filters.find(thread);
    if (found != filters.end() && found->second == wanted) return true;
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
}

class SeccompTest : public KvmTest {
 protected:
  struct Outcome {
    int code = 0;
    std::string said;
  };
  [[nodiscard]] static Outcome run(std::vector<std::string> command) {
    Pipe err;
    ChildProcess process{command, {.in = -1, .out = -1, .err = err.write.get()}};
    err.write.reset();
    Outcome outcome;
    read_until(err.read.get(), outcome.said, "");
    outcome.code = process.wait();
    return outcome;
  }
  /// Filters that the monitor takes.
  [[nodiscard]] std::string compiled(const std::string& text) const {
    const std::string source = make_file(scratch_.file("filters.txt"), text);
    const Outcome outcome = run({seccompile_binary(), source, "-o", scratch_.file("filters")});
    EXPECT_EQ(outcome.code, 0) << outcome.said;
    return scratch_.file("filters");
  }
  [[nodiscard]] static std::string built_in_text() { return content_of(project_file("jailer/seccomp/filters.txt")); }
  /// Those without what a vCPU is for.
  [[nodiscard]] static std::string without_kvm_run() {
    std::string text = built_in_text();
    const std::size_t line = text.find("\nioctl(_, KVM_RUN)");
    if (line == std::string::npos) give_up("filters.txt has no KVM_RUN");
    return text.erase(line, text.find('\n', line + 1) - line);
  }
  /// The built-in ones as the monitor takes them, but what is for threads of one kind is no program: its last
  /// instruction is no return.
  [[nodiscard]] std::string broken_for(std::string_view thread) const {
    std::string blob = content_of(compiled(built_in_text()));
    const std::size_t entry = blob.find(thread);
    if (entry == std::string::npos) give_up("the blob has no such thread");
    std::uint32_t offset = 0, length = 0;
    std::memcpy(&offset, blob.data() + entry + 16, sizeof offset);
    std::memcpy(&length, blob.data() + entry + 20, sizeof length);
    blob[offset + (length - 1) * 8] = 0;
    return make_file(scratch_.file("broken"), blob);
  }
  ScratchDirectory scratch_;
};

TEST_F(SeccompTest, EveryThreadHasItsFilterAndThoseOfWhoMadeIt) {
  Monitor monitor;
  (void)monitor.get("/");
  const int before = inherited();
  EXPECT_EQ(filters_of(monitor.process().pid()).at("mayfly"), before + 1);
  monitor.boot("spin");
  (void)monitor.get("/");  // what comes after the start finds the second filter of the loop
  EXPECT_TRUE(has_filters(monitor.process().pid(), "vcpu-0", before + 2));
  const auto filters = filters_of(monitor.process().pid());
  EXPECT_EQ(filters.at("mayfly"), before + 2);
  EXPECT_EQ(filters.at("api"), before + 1);
}

TEST_F(SeccompTest, AMachineThatIsLoadedAndPausedIsUnderTheSecondFilter) {
  const std::string files = R"("snapshot_path": ")" + scratch_.file("state") + '"';
  {
    Monitor first;
    first.boot("survivor");
    first.console_until("survivor ready");
    ASSERT_EQ(first.patch("/vm", R"({"state": "Paused"})").status, 204);
    const auto taken =
        first.put("/snapshot/create", "{" + files + R"(, "mem_file_path": ")" + scratch_.file("memory") + "\"}");
    ASSERT_EQ(taken.status, 204) << taken.body;
  }
  Monitor monitor;
  const auto load = [&](const std::string& memory) {
    return monitor.put("/snapshot/load", "{" + files + R"(, "mem_file_path": ")" + scratch_.file(memory) + "\"}")
        .status;
  };
  EXPECT_EQ(load("none"), 400);
  (void)monitor.get("/");
  EXPECT_EQ(filters_of(monitor.process().pid()).at("mayfly"), inherited() + 1) << "nothing was loaded";
  EXPECT_EQ(load("memory"), 204);
  (void)monitor.get("/");
  EXPECT_EQ(filters_of(monitor.process().pid()).at("mayfly"), inherited() + 2);
}

// A machine of the API has asked for its host's kernel before: while it waited for its configuration.
TEST_F(SeccompTest, AMachineOfAConfigurationFileIsSnapshotted) {
  const std::string config = make_file(scratch_.file("config"),
                                       R"({"boot-source": {"kernel_image_path": ")" + guest_path("survivor") + "\"}}");
  Monitor monitor{{"--config-file", config}};
  monitor.console_until("survivor ready");
  ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
  const auto taken = monitor.put("/snapshot/create", R"({"snapshot_path": ")" + scratch_.file("state") +
                                                         R"(", "mem_file_path": ")" + scratch_.file("memory") + "\"}");
  EXPECT_EQ(taken.status, 204) << taken.body;
}

// What a drive's replacement asks the kernel, and what its refusals ask, is within the second filter.
TEST_F(SeccompTest, DrivesOfARunningMachineAreReplaced) {
  const auto image = [this](const std::string& name) {
    return make_file(scratch_.file(name), std::string(1 << 20, 'd'));
  };
  const auto put = [](Monitor& monitor, const std::string& id, const std::string& path, const std::string& more) {
    const HttpAnswer answer =
        monitor.put("/drives/" + id, R"({"drive_id": ")" + id + R"(", "is_root_device": false, "path_on_host": ")" +
                                         path + "\"" + more + "}");
    ASSERT_EQ(answer.status, 204) << answer.body;
  };
  Monitor other;
  put(other, "held", image("held"), "");
  Monitor monitor;
  put(monitor, "buffered", image("buffered"), "");
  put(monitor, "direct", image("direct"), R"(, "direct": true)");
  monitor.boot("spin");
  const auto patch = [&](const std::string& id, const std::string& path) {
    return monitor.patch("/drives/" + id, R"({"drive_id": ")" + id + R"(", "path_on_host": ")" + path + "\"}");
  };
  for (const std::string id : {"buffered", "direct"}) {
    EXPECT_EQ(patch(id, scratch_.file(id)).status, 204) << "its own image again";
    EXPECT_EQ(patch(id, image(id + "-2")).status, 204);
    EXPECT_NE(patch(id, scratch_.file("none")).body.find("does not exist"), std::string::npos);
    EXPECT_NE(patch(id, scratch_.file("")).body.find("is a directory"), std::string::npos);
    EXPECT_NE(patch(id, scratch_.file("held")).body.find("is in use by"), std::string::npos);
  }
  EXPECT_EQ(monitor.get("/").status, 200);
}

TEST_F(SeccompTest, WhatAnOlderVersionCompiledIsRefusedWithTheRemedy) {
  std::string text = built_in_text();
  const std::size_t begin = text.find("\n[brancher]");
  ASSERT_NE(begin, std::string::npos);
  text.erase(begin);
  const std::string source = make_file(scratch_.file("old.txt"), text);
  const Outcome outcome = run({seccompile_binary(), source, "-o", scratch_.file("old")});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.said.find("add a section [brancher] to the text"), std::string::npos) << outcome.said;
}

// A filter takes the kernel a while, which nobody is to wait for when the machine starts.
TEST_F(SeccompTest, TheFirstVcpusThreadHasItsFilterBeforeAMachineIsWanted) {
  Monitor monitor;
  (void)monitor.get("/");
  EXPECT_TRUE(has_filters(monitor.process().pid(), "vcpu-0", inherited() + 2));
}

TEST_F(SeccompTest, NoSeccompLeavesThemOut) {
  Monitor monitor{{"--no-seccomp"}};
  monitor.boot("spin");
  for (const auto& [name, count] : filters_of(monitor.process().pid())) EXPECT_EQ(count, inherited()) << name;
}

TEST_F(SeccompTest, AFileTakesTheirPlace) {
  Monitor monitor{{"--seccomp-filter", compiled(built_in_text())}};
  monitor.boot("hello");
  monitor.console_until("GUEST PASS");
  EXPECT_EQ(monitor.wait(), 0);
}

TEST_F(SeccompTest, TransparentHugePagesAreLetThrough) {
  Monitor monitor;
  const auto set =
      monitor.put("/machine-config", R"({"vcpu_count": 2, "mem_size_mib": 64, "huge_pages": "Transparent"})");
  ASSERT_EQ(set.status, 204) << set.body;
  monitor.boot("hello");
  monitor.console_until("GUEST PASS");
  EXPECT_EQ(monitor.wait(), 0);
}

TEST_F(SeccompTest, AViolationIsALineInTheLogAndAnExitCode) {
  std::string text = built_in_text();
  const std::size_t line = text.find("\nioctl(_, KVM_CREATE_VM)");
  ASSERT_NE(line, std::string::npos);
  text.erase(line, text.find('\n', line + 1) - line);
  Monitor monitor{{"--id", "vm-7", "--seccomp-filter", compiled(text)}};
  (void)monitor.get("/");  // upon which it makes a machine's shell
  monitor.log_until("seccomp: thread loop called system call 16 (ioctl), which its filter does not allow\n");
  EXPECT_NE(monitor.log_until("").find("Z [vm-7:ERROR] seccomp: thread loop"), std::string::npos);
  EXPECT_EQ(monitor.wait(), 148);
}

TEST_F(SeccompTest, AViolationGoesToTheLogsFile) {
  const std::string log_path = scratch_.file("log");
  Monitor monitor{{"--log-path", log_path, "--seccomp-filter", compiled(without_kvm_run())}};
  try {
    monitor.boot("spin");
  } catch (const std::runtime_error&) {  // the vCPU may be sooner than the answer
  }
  EXPECT_EQ(monitor.wait(), 148);
  EXPECT_NE(content_of(log_path).find(":ERROR] seccomp: thread vcpu called system call 16 (ioctl)"), std::string::npos);
}

/// By script(1), which gives a command a terminal and exits as it does; `after` is carried out there, too.
std::vector<std::string> on_a_terminal(const std::string& command, const std::string& after) {
  return {"/usr/bin/script", "-qec", command + "; code=$?; " + after + "; exit $code", "/dev/null"};
}

TEST_F(SeccompTest, AMachineWithoutAnApiRunsOnATerminal) {
  const Outcome outcome = run(on_a_terminal(monitor_binary() + " run --kernel " + guest_path("hello"), "stty -a"));
  EXPECT_EQ(outcome.code, 0) << outcome.said;
}

TEST_F(SeccompTest, AViolationGivesTheTerminalItsSettingsBack) {
  const std::string settings = scratch_.file("settings");
  const Outcome outcome = run(on_a_terminal("stty -a >" + settings + ".before; " + monitor_binary() +
                                                " run --log-path " + scratch_.file("log") + " --seccomp-filter " +
                                                compiled(without_kvm_run()) + " --kernel " + guest_path("hello"),
                                            "stty -a >" + settings + ".after"));
  EXPECT_EQ(outcome.code, 148) << outcome.said;
  EXPECT_NE(content_of(scratch_.file("log")).find(":ERROR] seccomp: thread vcpu"), std::string::npos);
  EXPECT_EQ(content_of(settings + ".after"), content_of(settings + ".before"));
}

TEST_F(SeccompTest, AThreadWithoutItsFilterEndsTheMonitorAndLeavesTheTerminalAsItWas) {
  const std::string settings = scratch_.file("settings");
  for (const std::string thread : {"vcpu", "api", "running"}) {
    const std::string command = monitor_binary() + " run --api-sock " + scratch_.file(thread + ".socket") +
                                " --log-path " + scratch_.file(thread + ".log") + " --seccomp-filter " +
                                broken_for(thread) + " --kernel " + guest_path("spin");
    const Outcome outcome =
        run(on_a_terminal("stty -a >" + settings + ".before; " + command, "stty -a >" + settings + ".after"));
    const std::string log = content_of(scratch_.file(thread + ".log"));
    EXPECT_EQ(outcome.code, 1) << log;
    EXPECT_NE(log.find("the kernel refuses the system call filter of thread " + thread), std::string::npos) << log;
    EXPECT_NE(content_of(settings + ".before"), "");
    EXPECT_EQ(content_of(settings + ".after"), content_of(settings + ".before")) << thread;
  }
}

TEST_F(SeccompTest, AFileThatIsNoneIsRefusedBeforeAnythingIsMade) {
  const std::string socket = scratch_.file("api");
  const std::string text = make_file(scratch_.file("text"), "[loop]\nread\n");
  const Outcome outcome = run({monitor_binary(), "--api-sock", socket, "--seccomp-filter", text});
  EXPECT_EQ(outcome.code, 152);
  EXPECT_EQ(outcome.said, "mayfly: --seccomp-filter " + text +
                              ": these are no compiled filters; make it with mayfly-seccompile of this version\n");
  EXPECT_FALSE(std::filesystem::exists(socket));
  const Outcome missing = run({monitor_binary(), "--api-sock", socket, "--seccomp-filter", scratch_.file("none")});
  EXPECT_EQ(missing.code, 152);
  EXPECT_NE(missing.said.find("cannot be opened: No such file"), std::string::npos) << missing.said;
}

TEST_F(SeccompTest, AProgramThatTheKernelRefusesIsAnError) {
  const Outcome outcome =
      run({monitor_binary(), "--api-sock", scratch_.file("api"), "--seccomp-filter", broken_for("loop")});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.said.find("the kernel refuses the system call filter of thread loop"), std::string::npos)
      << outcome.said;
}

TEST_F(SeccompTest, TheCompilerSaysWhatIsWrong) {
  const std::string text = make_file(scratch_.file("text"), "[loop]\nreed\n");
  const Outcome outcome = run({seccompile_binary(), text, "-o", scratch_.file("out")});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.said, "mayfly-seccompile: " + text +
                              ": [loop]: line 2: there is no system call 'reed' on this machine; see syscalls(2)\n");
  EXPECT_FALSE(std::filesystem::exists(scratch_.file("out")));
}

}  // namespace
}  // namespace mayfly::testing
