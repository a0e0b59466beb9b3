// `mayfly up`, `down` and `logs` with a template of a bare-metal guest that prints for ever and has no agent: nobody answers, so
// `mayfly up` waits until its deadline, an interrupt or its end. Clones that serve are in tests/lab/test_templates.py.

#include "tests/integration/jail.h"
#include "tests/integration/kvm_required.h"
#include "tests/support/monitor.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

/// Of this process: the suites of other builds run beside it, and machines are looked for by their names in /proc.
const std::string kId = "half-made-" + std::to_string(::getpid());
constexpr double kPatienceUs = 60e6;
/// Whether clones are in jails. A sanitizer's monitor needs libraries, which no jail has.
#ifdef MAYFLY_SANITIZED
constexpr std::array kWays{false};
#else
constexpr std::array kWays{false, true};
#endif

/// Processes of machines, by what they are called there.
std::vector<pid_t> machines_called(const std::string& id) {
  std::vector<pid_t> found;
  std::error_code none;
  for (const auto& each : fs::directory_iterator{"/proc", none}) {
    const std::string name = each.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file{each.path() / "cmdline"};
    std::stringstream text;
    text << file.rdbuf();
    const std::string words = text.str();
    const std::string wanted = std::string{"--id"} + '\0' + id + '\0';
    const bool is_up = words.find(std::string{"\0up\0", 4}) != std::string::npos;
    if (words.find(wanted) != std::string::npos && !is_up) found.push_back(std::stoi(name));
  }
  return found;
}

class ClonesTest : public JailTest {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "/dev/kvm is missing or not permitted";
    JailTest::SetUp();
    if (IsSkipped()) return;
    ASSERT_EQ(::chmod(fs::path{base()}.parent_path().c_str(), 0755), 0);
    fs::create_directory(template_);
    fs::create_directory(jails_);
    make_template();
  }
  void TearDown() override {
    for (const pid_t left : machines_called(kId)) {
      ADD_FAILURE() << "machine " << left << " is left";
      ::kill(left, SIGKILL);
    }
    JailTest::TearDown();
  }

  void make_template() const {
    Monitor monitor{{"--id", "maker"}};
    const auto must = [](const HttpAnswer& answer) { ASSERT_EQ(answer.status, 204) << answer.body; };
    for (const char* name : {"base", "layer"}) {
      make_file(monitor.file(name), std::string(std::size_t{1} << 20, '\0'));
      must(monitor.put("/drives/" + std::string{name}, R"({"drive_id": ")" + std::string{name} +
                                                           R"(", "path_on_host": ")" + monitor.file(name) +
                                                           R"(", "is_root_device": false, "is_read_only": )" +
                                                           (std::string{name} == "base" ? "true}" : "false}")));
    }
    must(monitor.put("/network-interfaces/eth0", R"({"iface_id": "eth0"})"));
    must(monitor.put("/mmds/config", R"({"network_interfaces": ["eth0"], "version": "V2"})"));
    must(monitor.put("/channels/1024",
                     R"({"port": 1024, "listen": true, "uds_path": ")" + monitor.file("agent.sock") + "\"}"));
    must(monitor.put("/serial", R"({"serial_out_path": ")" + monitor.file("console") + "\"}"));
    monitor.boot("serial_flood", "console=ttyS0 bytes=1000000000000 string=1");
    must(monitor.patch("/vm", R"({"state": "Paused"})"));
    must(monitor.put("/snapshot/create", R"({"snapshot_path": ")" + monitor.file("state") + R"(", "mem_file_path": ")" +
                                             monitor.file("memory") + "\"}"));
    std::string files;
    for (const char* name : {"base", "layer", "state", "memory"}) {
      const fs::path to = fs::path{template_} / name;
      fs::copy_file(monitor.file(name), to);
      ASSERT_EQ(::chmod(to.c_str(), 0444), 0);
      files += (files.empty() ? "\"" : ", \"") + std::string{name} + R"(": {"size_bytes": )" +
               std::to_string(fs::file_size(to)) + "}";
    }
    make_file(template_ + "/template.json",
              R"({"version": 1, "image": {"digest": "sha256:1", "names": []},
                  "machine": {"vcpu_count": 1, "mem_size_mib": 128, "ready_port": 0}, "files": {)" +
                  files + "}}");
  }

  [[nodiscard]] std::vector<std::string> up_words(bool jailed, const std::vector<std::string>& more = {},
                                                  const std::string& id = kId) const {
    std::vector<std::string> words{monitor_binary(), "up",     template_,     "--id", id,
                                   "--run-dir",      run_dir_, "--jail-base", jails_};
    if (!jailed) words.emplace_back("--no-jail");
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  struct Said {
    int code = 0;
    std::string out;
    std::string err;
  };
  [[nodiscard]] Said say(const std::vector<std::string>& words) const {
    const std::string out = file("said.out");
    const std::string err = file("said.err");
    const OwnedFd to_out{::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    const OwnedFd to_err{::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    ChildProcess process{words, {.in = -1, .out = to_out.get(), .err = to_err.get()}};
    const int code = process.wait();
    return {.code = code, .out = content_of(out), .err = content_of(err)};
  }
  [[nodiscard]] Said mayfly(const std::string& command, const std::string& id) const {
    return say({monitor_binary(), command, id, "--run-dir", run_dir_, "--jail-base", jails_});
  }
  /// Where its files are.
  [[nodiscard]] std::string place(bool jailed, const std::string& name = "") const {
    return (jailed ? jails_ + "/mayfly/" + kId + "/root/" : run_dir_ + "/" + kId + "/") + name;
  }
  [[nodiscard]] bool is_anything_left(bool jailed) const {
    return fs::exists(jailed ? jails_ + "/mayfly/" + kId : run_dir_ + "/" + kId) || !machines_called(kId).empty() ||
           (fs::exists(run_dir_ + "/.starting") && !fs::is_empty(run_dir_ + "/.starting"));
  }
  static void await(const std::function<bool()>& done, const std::string& what) {
    const double deadline = now_us() + kPatienceUs;
    while (!done()) {
      if (now_us() > deadline) give_up("it takes too long: " + what);
      std::this_thread::yield();
    }
  }

  std::string template_ = base() + "/app.template";
  std::string jails_ = base() + "/jails";
  std::string run_dir_ = base() + "/run";
};

TEST_F(ClonesTest, AKillOfUpAtAnyMomentLeavesNothingAfterTheNextDown) {
  for (const bool jailed : kWays) {
    const std::vector<std::pair<std::string, std::function<bool()>>> moments = {
        {"at once", [] { return true; }},
        {"its mark", [&] { return fs::exists(run_dir_ + "/.starting/" + kId); }},
        {"its directory", [&] { return fs::exists(fs::path{place(jailed)}.parent_path()); }},
        {"its log", [&] { return fs::exists(jailed ? jails_ + "/mayfly/" + kId + "/log" : place(false, "log")); }},
        {"its monitor", [] { return !machines_called(kId).empty(); }},
        {"the copy of the monitor", [&] { return !jailed || fs::exists(place(true, "mayfly")); }},
        {"its API", [&] { return fs::exists(place(jailed, "api.sock")); }},
        {"its console", [&] { return fs::exists(place(jailed, "console")); }},
        {"its agent's socket", [&] { return fs::exists(place(jailed, "agent.sock")); }},
        {"its output",
         [&] { return fs::exists(place(jailed, "console")) && fs::file_size(place(jailed, "console")) > 0; }},
    };
    for (const auto& [name, moment] : moments) {
      ChildProcess up{up_words(jailed), {}};
      await(moment, name);
      up.signal(SIGKILL);
      up.wait();
      // The kernel kills a jailer that is at work, which holds its lock until it has ended.
      await(
          [&] {
            const Said other = mayfly("down", "another");
            EXPECT_EQ(other.code, 1) << "of which there is nothing";
            return !is_anything_left(jailed);
          },
          "something is left of a start that was killed at " + name);
    }
    ChildProcess up{up_words(jailed), {}};
    await([&] { return fs::exists(place(jailed, "agent.sock")); }, "the same id may be used again");
    up.signal(SIGINT);
    EXPECT_EQ(up.wait(), 256 + SIGINT);
    EXPECT_FALSE(is_anything_left(jailed));
  }
}

TEST_F(ClonesTest, AMachineOfTheSameNameElsewhereIsLeftAlone) {
  const std::string socket = file("other.sock");
  ChildProcess other{{monitor_binary(), "--id", kId, "--api-sock", socket}, {}};
  await([&] { return fs::exists(socket); }, "the other machine");
  fs::create_directories(run_dir_ + "/.starting");
  fs::create_directory(run_dir_ + "/" + kId);
  make_file(run_dir_ + "/.starting/" + kId, "\nmade\n");  // as a killed mayfly up leaves it
  EXPECT_EQ(mayfly("down", "another").code, 1);
  EXPECT_FALSE(fs::exists(run_dir_ + "/" + kId));
  fs::create_directory(run_dir_ + "/" + kId);
  make_file(place(false, "log"), "");
  const Said down = mayfly("down", kId);
  EXPECT_EQ(down.code, 0) << down.err;
  EXPECT_EQ(machines_called(kId).size(), 1U);
  other.signal(SIGTERM);
  EXPECT_EQ(other.wait(), 143);
}

TEST_F(ClonesTest, WhatOthersCallTheirProcessesKeepsNobodyFromAnId) {
  const std::string program = base() + "/mayfly";  // of which everybody may say anything
  fs::copy_file("/bin/sh", program);
  const std::vector<std::string> waits{program, "-c", "echo; read x", "--id", kId, "--api-sock", "x"};
  const auto refusal_beside = [&](const std::vector<std::string>& launcher, bool jailed) {
    std::vector<std::string> words = launcher;
    words.insert(words.end(), waits.begin(), waits.end());
    Pipe in, out;
    ChildProcess other{words, {.in = in.read.get(), .out = out.write.get(), .err = -1}};
    std::string text;
    read_until(out.read.get(), text, "\n");
    Said up = say(up_words(jailed, {"--patience", "1"}));
    other.signal(SIGKILL);
    other.wait();
    EXPECT_EQ(up.code, 1);
    EXPECT_FALSE(is_anything_left(jailed));
    return up.err;
  };
  const std::vector<std::string> as_another = {"setpriv", "--reuid", "65534", "--clear-groups"};
  for (const bool jailed : kWays) {
    const std::string beside_anothers = refusal_beside(as_another, jailed);
    EXPECT_TRUE(beside_anothers.contains("the clone does not answer")) << beside_anothers;
    const std::string beside_ours = refusal_beside({}, jailed);
    EXPECT_TRUE(beside_ours.contains("a machine " + kId + " runs already (mayfly ps): give another --id"))
        << beside_ours;
  }
}

#ifndef MAYFLY_SANITIZED
TEST_F(ClonesTest, AProcessInARootOfItsOwnKeepsNobodyFromAnId) {
  const std::string root = base() + "/root";
  fs::create_directory(root);
  fs::copy_file(monitor_binary(), root + "/mayfly");
  ChildProcess other{{"chroot", root, "/mayfly", "--id", kId, "--api-sock", "/api.sock"}, {}};
  await([&] { return fs::exists(root + "/api.sock") || other.has_failed(); }, "its API");
  ASSERT_EQ(machines_called(kId), std::vector<pid_t>{other.pid()});
  for (const bool jailed : kWays) {
    const Said up = say(up_words(jailed, {"--patience", "1"}));
    EXPECT_TRUE(up.err.contains("the clone does not answer")) << up.err;
  }
  other.signal(SIGKILL);
  other.wait();
}

TEST_F(ClonesTest, AMonitorInAJailKeepsNobodyButItsOwnId) {
  ChildProcess up{up_words(true), {}};
  await([&] { return fs::exists(place(true, "agent.sock")); }, "it is loaded");
  up.signal(SIGKILL);  // which leaves its monitor
  up.wait();
  fs::remove(run_dir_ + "/.starting/" + kId);  // as of one that is up
  for (const bool jailed : kWays) {
    const Said again = say(up_words(jailed));
    EXPECT_EQ(again.code, 1);
    EXPECT_TRUE(again.err.contains("a machine " + kId + " runs already (mayfly ps): give another --id")) << again.err;
  }
  // To another base it is what any process in a root directory of its own may say it is.
  auto elsewhere = up_words(false, {"--patience", "1"});
  *(std::ranges::find(elsewhere, "--jail-base") + 1) = base() + "/other";
  const Said other = say(elsewhere);
  EXPECT_TRUE(other.err.contains("the clone does not answer")) << other.err;
  const Said down = mayfly("down", kId);
  EXPECT_EQ(down.code, 0) << down.err;
  EXPECT_FALSE(is_anything_left(true));
}

TEST_F(ClonesTest, ADirectoryThatUpHasNotMadeIsNotSaidToBeForDown) {
  fs::create_directories(jails_ + "/mayfly/" + kId + "/root");
  const Said up = say(up_words(true));
  EXPECT_EQ(up.code, 1);
  EXPECT_TRUE(up.err.contains(kId + " is there, and not of mayfly up: remove it, or give another --id")) << up.err;
  make_file(jails_ + "/mayfly/" + kId + "/log", "");
  const Said of_up = say(up_words(true));
  EXPECT_TRUE(of_up.err.contains("of a machine that has ended: remove it by mayfly down " + kId)) << of_up.err;
  EXPECT_EQ(mayfly("down", kId).code, 0);
  EXPECT_FALSE(is_anything_left(true));
}
#endif

TEST_F(ClonesTest, ADownThatFailsOrIsKilledCanBeRepeated) {
  for (const bool jailed : kWays) {
    const std::string whole = jailed ? jails_ + "/mayfly/" + kId : run_dir_ + "/" + kId;
    // A directory is read in the order of its names' making, or the other way round.
    for (const bool is_first : {true, false}) {
      fs::create_directories(place(jailed));
      ASSERT_EQ(::chmod(run_dir_.c_str(), 0755), 0);
      if (is_first) make_file(whole + "/log", "");
      make_file(place(jailed, "overlay"), "all that it wrote");
      if (!is_first) make_file(whole + "/log", "");
      const std::string mounted = place(jailed, "overlay");
      ASSERT_EQ(::mount(mounted.c_str(), mounted.c_str(), nullptr, MS_BIND, nullptr), 0);
      for (int time = 0; time < 2; ++time) {
        const Said down = mayfly("down", kId);
        EXPECT_EQ(down.code, 1);
        EXPECT_FALSE(down.err.contains("mayfly up has left nothing")) << down.err;
      }
      ASSERT_EQ(::umount(mounted.c_str()), 0);
      const Said down = mayfly("down", kId);
      EXPECT_EQ(down.code, 0) << down.err;
      EXPECT_FALSE(is_anything_left(jailed));
      fs::remove_all(whole);
    }
    // The log goes last but for its directory and, in a jail, what the jailer has written.
    fs::create_directories(whole);
    if (jailed) make_file(whole + "/mayfly.pid", "1");
    const Said down = mayfly("down", kId);
    EXPECT_EQ(down.code, 0) << down.err;
    EXPECT_FALSE(is_anything_left(jailed));
    fs::remove_all(whole);
  }
}

TEST_F(ClonesTest, AMonitorOfAnotherNameIsNoClone) {
  const std::string renamed = file("mayfly-0.9");
  fs::copy_file(monitor_binary(), renamed);
  for (const bool jailed : kWays) {
    auto words = up_words(jailed, {"--patience", "1"});
    words.front() = renamed;
    const Said up = say(words);
    EXPECT_EQ(up.code, 1);
    EXPECT_TRUE(up.err.contains("mayfly-0.9 must be called mayfly")) << up.err;
    EXPECT_FALSE(is_anything_left(jailed));
  }
}

TEST_F(ClonesTest, FilesOfAProcessThatIsNotFoundStay) {
  fs::create_directories(run_dir_ + "/" + kId);
  fs::create_directories(run_dir_ + "/.starting");
  make_file(place(false, "log"), "");
  make_file(run_dir_ + "/.starting/" + kId, "\nmade\n");
  // As one that was taken over and has changed its command line.
  ChildProcess other{{monitor_binary(), "--id", "lies", "--api-sock", place(false, "api.sock")}, {}};
  await([&] { return fs::exists(place(false, "api.sock")); }, "its API");
  const Said down = mayfly("down", kId);
  EXPECT_EQ(down.code, 1);
  EXPECT_TRUE(down.err.contains("not called mayfly, or not " + kId + ", still listens at ")) << down.err;
  EXPECT_TRUE(fs::exists(run_dir_ + "/.starting/" + kId));
  other.signal(SIGKILL);
  other.wait();
  EXPECT_EQ(mayfly("down", "another").code, 1);
  EXPECT_FALSE(is_anything_left(false));
}

#ifndef MAYFLY_SANITIZED
TEST_F(ClonesTest, TheNextUpRemovesWhatAKilledOneHasLeft) {
  ChildProcess killed{up_words(true), {}};
  await([&] { return fs::exists(place(true, "agent.sock")); }, "it is loaded");
  killed.signal(SIGKILL);
  killed.wait();
  const auto left = machines_called(kId);
  ASSERT_EQ(left.size(), 1U);
  std::vector<std::string> words{"/bin/sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"};  // as some daemons start programs
  std::ranges::copy(up_words(true, {}, "other"), std::back_inserter(words));
  ChildProcess next{words, {}};
  await([&] { return fs::exists(jails_ + "/mayfly/other/root/agent.sock"); }, "the next one is loaded");
  EXPECT_FALSE(fs::exists(jails_ + "/mayfly/" + kId));
  EXPECT_FALSE(fs::exists(run_dir_ + "/.starting/" + kId));
  EXPECT_TRUE(machines_called(kId).empty());
  next.signal(SIGTERM);
  EXPECT_EQ(next.wait(), 256 + SIGTERM);
}
#endif

TEST_F(ClonesTest, AGuestThatPrintsForEverTakesNoMoreThanWasSaid) {
  constexpr off_t kBound = off_t{128} << 10;
  for (const bool jailed : kWays) {
    ChildProcess up{up_words(jailed, {"--max-output", "128"}), {}};
    const std::string console = place(jailed, "console");
    await([&] { return fs::exists(console); }, "its console");
    struct stat status{};
    // As a guest that has printed for a minute, which is how long it takes here.
    const auto print_much = [&] {
      std::string line(64, 'z');
      line.back() = '\n';
      std::ofstream out{console, std::ios::app};
      for (off_t bytes = 0; bytes < 3 * kBound; bytes += 64) out << line;
      out.close();
      await([&] { return ::stat(console.c_str(), &status) == 0 && status.st_blocks * 512 <= kBound; },
            "the oldest is freed");
    };
    print_much();
    const Said logs = mayfly("logs", kId);
    EXPECT_EQ(logs.code, 0) << logs.err;
    EXPECT_EQ(logs.out.find('\0'), std::string::npos) << "holes are left out";
    EXPECT_GE(static_cast<off_t>(logs.out.size()), kBound / 2 - 8192);
    EXPECT_TRUE(logs.out.contains("\nzzzz"));
    EXPECT_TRUE(logs.err.starts_with("mayfly logs: ")) << logs.err;
    EXPECT_TRUE(logs.err.contains(" bytes are gone here; mayfly up --max-output says how much is kept\n")) << logs.err;

    // One that follows sees the newest, to the end.
    Pipe out;
    ChildProcess follow{{monitor_binary(), "logs", "--follow", kId, "--run-dir", run_dir_, "--jail-base", jails_},
                        {.in = -1, .out = out.write.get(), .err = -1}};
    out.write.reset();
    std::string text;
    read_until(out.read.get(), text, "\n");
    print_much();
    up.signal(SIGINT);
    up.wait();
    read_until(out.read.get(), text, "");
    EXPECT_EQ(text.find('\0'), std::string::npos);
    EXPECT_EQ(follow.wait(), 0);
    EXPECT_FALSE(is_anything_left(jailed));
  }
}

TEST_F(ClonesTest, ThatNobodyAnswersIsSaidAtTheDeadline) {
  const Said up = say(up_words(false, {"--patience", "1"}));
  EXPECT_EQ(up.code, 1);
  EXPECT_TRUE(up.err.contains("the clone does not answer: the agent in the guest")) << up.err;
  EXPECT_FALSE(is_anything_left(false));
}

TEST_F(ClonesTest, DownHasOneDeadlineForAMonitorThatDoesNothing) {
  for (const bool jailed : kWays) {
    ChildProcess up{up_words(jailed), {}};
    await([&] { return fs::exists(place(jailed, "agent.sock")); }, "it is loaded");
    up.signal(SIGKILL);
    up.wait();
    fs::remove(run_dir_ + "/.starting/" + kId);  // as of one that is up
    for (const pid_t machine : machines_called(kId)) ::kill(machine, SIGSTOP);
    const double begin = now_us();
    const Said down =
        say({monitor_binary(), "down", kId, "--timeout", "2", "--run-dir", run_dir_, "--jail-base", jails_});
    EXPECT_EQ(down.code, 0) << down.err;
    EXPECT_GE(now_us() - begin, 2e6) << "it was asked";
    EXPECT_LT(now_us() - begin, 6e6) << "not 2 s for the guest and 5 s for the monitor";
    EXPECT_FALSE(is_anything_left(jailed));
  }
}

#ifndef MAYFLY_SANITIZED
TEST_F(ClonesTest, LimitsOfAJailAreTheJailers) {
  const auto cgroup = find_cgroup();
  if (!cgroup) GTEST_SKIP() << "no cgroup can be made here";
  const std::string own = cgroup->parent + "/" + kId;
  std::vector<std::string> limits = cgroup->flags;
  limits.insert(limits.end(), {"--resource-limit", "no-file=512"});
  {
    ChildProcess up{up_words(true, limits), {}};
    await([&] { return fs::exists(place(true, "agent.sock")); }, "it is loaded");
    const auto machines = machines_called(kId);
    ASSERT_EQ(machines.size(), 1U);
    EXPECT_TRUE(content_of(own + "/pids.max").starts_with("99"));
    EXPECT_TRUE(content_of(own + "/cgroup.procs").contains(std::to_string(machines.front())));
    EXPECT_TRUE(
        content_of("/proc/" + std::to_string(machines.front()) + "/limits").contains("512                  512"));
    // A clone whose mayfly up is gone: the cgroup's parent is in a file of the jail.
    up.signal(SIGKILL);
    up.wait();
  }
  EXPECT_EQ(mayfly("down", "another").code, 1);
  EXPECT_FALSE(is_anything_left(true));
  EXPECT_FALSE(fs::exists(own));
  ChildProcess up{up_words(true, limits), {}};
  await([&] { return fs::exists(place(true, "agent.sock")); }, "it is loaded");
  EXPECT_TRUE(fs::exists(own));
  up.signal(SIGINT);
  up.wait();
  EXPECT_FALSE(fs::exists(own));

  const Said refused = say(up_words(true, {"--cgroup", "nonsense"}));
  EXPECT_EQ(refused.code, 1);
  EXPECT_TRUE(refused.err.contains("--cgroup 'nonsense' must be CONTROLLER.FILE=VALUE")) << refused.err;
  const Said jailless = say(up_words(false, {"--resource-limit", "no-file=512"}));
  EXPECT_EQ(jailless.code, 1);
  EXPECT_TRUE(jailless.err.contains("--resource-limit is a jail's: be root, and leave --no-jail out")) << jailless.err;
  EXPECT_FALSE(is_anything_left(true) || is_anything_left(false));
}
#endif

TEST_F(ClonesTest, ARunDirectoryThatOthersMayWriteToIsRefused) {
  fs::create_directory(run_dir_);
  ASSERT_EQ(::chmod(run_dir_.c_str(), 0777), 0);
  const Said up = say(up_words(false));
  EXPECT_EQ(up.code, 1);
  EXPECT_TRUE(up.err.contains(run_dir_ +
                              " must be a directory of this user, to which nobody else may write: remove it, "
                              "or give another --run-dir"))
      << up.err;
}

}  // namespace
}  // namespace mayfly::testing
