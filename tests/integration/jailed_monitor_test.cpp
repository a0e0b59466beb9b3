// The real monitor in a jail: what it can still do, and what /proc says that it cannot.

#include "tests/integration/jail.h"
#include "vmm/base/process_fd.h"

#include <poll.h>

#include <algorithm>
#include <csignal>
#include <fstream>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

/// A line of a process's status.
std::string status_of(pid_t pid, const std::string& key) {
  std::ifstream status{"/proc/" + std::to_string(pid) + "/status"};
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":\t")) return line.substr(key.size() + 2);
  give_up("no " + key + " in the status of process " + std::to_string(pid));
}

std::string link_of(pid_t pid, const std::string& name) {
  return fs::read_symlink("/proc/" + std::to_string(pid) + "/" + name);
}

/// A process that is not our child, ended with this object.
class Stranger {
 public:
  explicit Stranger(pid_t pid) : pid_(pid), pidfd_(open_process(pid)) {}
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;
  ~Stranger() { end(); }
  void end() {
    if (!pidfd_) return;
    ::kill(pid_, SIGKILL);
    pollfd ended{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
    (void)::poll(&ended, 1, 60'000);
    pidfd_.reset();
  }

 private:
  pid_t pid_;
  OwnedFd pidfd_;
};

class JailedMonitorTest : public JailTest {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "/dev/kvm is missing or not permitted";
    JailTest::SetUp();
  }
  [[nodiscard]] std::string root(const std::string& id) const { return folder("mayfly", id) + "/root"; }
  /// What a host puts into a jail before it is made.
  void put_guest(const std::string& id, const std::string& guest) const {
    fs::create_directories(root(id));
    fs::copy_file(guest_path(guest), root(id) + "/kernel");
    fs::permissions(root(id) + "/kernel", fs::perms::owner_all | fs::perms::others_read);
  }
  /// A guest runs in the one jail, and its snapshot is in the other.
  void move_a_snapshot(const std::string& from, const std::string& to) const;
  [[nodiscard]] pid_t daemon_pid(const std::string& id) const {
    return static_cast<pid_t>(std::stol(content_of(folder("mayfly", id) + "/mayfly.pid")));
  }
  void end_and_clean_up(const std::string& id) const {
    const Outcome outcome = clean_up(id, monitor_binary(), {"--parent-cgroup", parent_cgroup()});
    EXPECT_EQ(outcome.code, 0) << outcome.said;
    EXPECT_FALSE(fs::exists(folder("mayfly", id)));
  }
};

/// A monitor in a jail that was made for it, with its API and console.
class Jailed {
 public:
  /// `words` are the monitor's own arguments.
  Jailed(const std::string& root, std::vector<std::string> arguments,
         const std::vector<std::string>& words = {"--api-sock", "/api.sock"})
      : waiter_(root + "/api.sock") {
    arguments.insert(arguments.begin(), jailer_binary());
    arguments.emplace_back("--");
    arguments.insert(arguments.end(), words.begin(), words.end());
    process_.emplace(arguments,
                     ChildProcess::Streams{.in = in_.read.get(), .out = out_.write.get(), .err = err_.write.get()});
    in_.read.reset();
    out_.write.reset();
    err_.write.reset();
    connection_ = waiter_.connect(*process_, err_.read.get());
  }
  void must(const std::string& method, const std::string& path, const std::string& body) {
    must_exchange(connection_.get(), method, path, body);
  }
  HttpAnswer send(const std::string& method, const std::string& path, const std::string& body) {
    return exchange(connection_.get(), method, path, body);
  }
  void boot() {
    must("PUT", "/boot-source", R"({"kernel_image_path": "/kernel", "boot_args": "console=ttyS0"})");
    must("PUT", "/actions", R"({"action_type": "InstanceStart"})");
  }
  void console_until(const std::string& wanted) { read_until(out_.read.get(), console_, wanted); }
  void type(const std::string& keys) { EXPECT_EQ(::write(in_.write.get(), keys.data(), keys.size()), 1); }
  void expect_pass() {
    console_until("");
    EXPECT_NE(console_.find("GUEST PASS"), std::string::npos) << console_;
    EXPECT_EQ(process_->wait(), 0);
  }
  [[nodiscard]] pid_t pid() const { return process_->pid(); }

 private:
  SocketWaiter waiter_;
  Pipe in_, out_, err_;
  std::optional<ChildProcess> process_;
  OwnedFd connection_;
  std::string console_;
};

void JailedMonitorTest::move_a_snapshot(const std::string& from, const std::string& to) const {
  put_guest(from, "survivor");
  {
    Jailed monitor{root(from), jail(from, monitor_binary())};
    monitor.boot();
    monitor.console_until("survivor ready");
    monitor.must("PATCH", "/vm", R"({"state": "Paused"})");
    monitor.must("PUT", "/snapshot/create", R"({"snapshot_path": "/state", "mem_file_path": "/memory"})");
  }
  put_guest(to, "survivor");
  for (const char* const name : {"/state", "/memory"}) fs::rename(root(from) + name, root(to) + name);
}

TEST_F(JailedMonitorTest, RunsAGuest) {
  put_guest("vm", "hello");
  Jailed monitor{root("vm"), jail("vm", monitor_binary())};
  monitor.boot();
  monitor.expect_pass();
  end_and_clean_up("vm");
}

TEST_F(JailedMonitorTest, RunsAGuestFromFlags) {
  put_guest("vm", "hello");
  std::vector<std::string> arguments = jail("vm", monitor_binary());
  arguments.insert(arguments.end(), {"--", "run", "--kernel", "/kernel", "--memory", "32"});
  const Outcome outcome = run(arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.said;
  end_and_clean_up("vm");
}

// What errors ask the kernel, to say what is wrong, must be within the filters: else the machine ends instead.
TEST_F(JailedMonitorTest, RefusesWhatItMayNotUseAndGoesOn) {
  put_guest("vm", "hello");
  const auto put_file = [this](const std::string& name, fs::perms allowed) {
    make_file(root("vm") + "/" + name, std::string(4096, 'x'));
    fs::permissions(root("vm") + "/" + name, allowed);
  };
  put_file("readable", fs::perms::owner_read | fs::perms::others_read);
  put_file("secret", fs::perms::owner_read);
  fs::create_directory(root("vm") + "/others");
  Jailed monitor{root("vm"), jail("vm", monitor_binary())};
  const auto refused = [&](const std::string& method, const std::string& path, const std::string& body,
                           const std::string& why) {
    const HttpAnswer answer = monitor.send(method, path, body);
    EXPECT_EQ(answer.status, 400) << body;
    EXPECT_NE(answer.body.find(why), std::string::npos) << answer.body;
  };
  const auto drive = [](const std::string& path) {
    return R"({"drive_id": "data", "is_root_device": false, "path_on_host": ")" + path + "\"}";
  };
  refused("PUT", "/drives/data", drive("/readable"), "can be read but not written by user 61234");
  refused("PUT", "/drives/data", drive("/secret"), "may not be opened by user 61234");
  refused("PUT", "/drives/data", drive("/none"), "does not exist");
  refused("PUT", "/boot-source", R"({"kernel_image_path": "/secret"})", "/secret");
  refused("PUT", "/network-interfaces/eth0", R"({"iface_id": "eth0", "host_dev_name": "notap0"})", "notap0");
  refused("PUT", "/logger", R"({"log_path": "/others/log"})", "/others/log");
  refused("PUT", "/metrics", R"({"metrics_path": "/secret"})", "/secret");
  refused("PUT", "/snapshot/load",
          R"({"snapshot_path": "/secret", "mem_backend": {"backend_type": "File", "backend_path": "/readable"}})",
          "/secret");
  refused("PUT", "/snapshot/load",
          R"({"snapshot_path": "/readable", "mem_backend": {"backend_type": "Uffd", "backend_path": "/none"}})",
          "/readable");
  monitor.boot();
  monitor.expect_pass();
  end_and_clean_up("vm");
}

TEST_F(JailedMonitorTest, StartsWithFewDescriptorsOrSaysHowMany) {
  put_guest("vm", "hello");
  const Outcome outcome =
      run(jail("vm", monitor_binary(), {"--resource-limit", "no-file=40", "--", "--api-sock", "/api.sock"}));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.said.find("the limit of open files is below 320"), std::string::npos) << outcome.said;
  end_and_clean_up("vm");
}

TEST_F(JailedMonitorTest, HasNoPrivilegesNoFilesAndNothingInherited) {
  put_guest("vm", "hello");
  const OwnedFd way_out{::open("/", O_RDONLY | O_DIRECTORY)};  // inherited, where nobody closes it
  ASSERT_TRUE(way_out);
  Jailed monitor{root("vm"), jail("vm", monitor_binary(), {"--resource-limit", "fsize=1000000"})};
  const pid_t pid = monitor.pid();
  const std::string uid = std::to_string(kJailUid);
  const std::string gid = std::to_string(kJailGid);
  EXPECT_EQ(status_of(pid, "Uid"), uid + "\t" + uid + "\t" + uid + "\t" + uid);
  EXPECT_EQ(status_of(pid, "Gid"), gid + "\t" + gid + "\t" + gid + "\t" + gid);
  EXPECT_EQ(status_of(pid, "Groups").find_first_of("0123456789"), std::string::npos);
  for (const char* const set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
    EXPECT_EQ(status_of(pid, set), "0000000000000000") << set;
  EXPECT_EQ(status_of(pid, "NoNewPrivs"), "1");

  EXPECT_NE(link_of(pid, "ns/mnt"), link_of(::getpid(), "ns/mnt"));
  const std::string proc = "/proc/" + std::to_string(pid);
  struct stat seen{}, made{};
  ASSERT_EQ(::stat((proc + "/root").c_str(), &seen), 0);
  ASSERT_EQ(::stat(root("vm").c_str(), &made), 0);
  EXPECT_EQ(seen.st_ino, made.st_ino);
  EXPECT_EQ(seen.st_dev, made.st_dev);
  EXPECT_EQ(link_of(pid, "cwd"), link_of(pid, "root"));
  const std::string mounts = content_of(proc + "/mountinfo");
  EXPECT_EQ(std::ranges::count(mounts, '\n'), 2) << mounts;  // the root and /proc/self
  EXPECT_EQ(content_of(proc + "/environ"), "");
  EXPECT_NE(content_of(proc + "/limits").find("Max open files            2048                 2048"),
            std::string::npos);
  EXPECT_NE(content_of(proc + "/limits").find("Max file size             1000000              1000000"),
            std::string::npos);
  for (const auto& each : fs::directory_iterator{proc + "/fd"}) EXPECT_FALSE(fs::is_directory(each)) << each;
}

TEST_F(JailedMonitorTest, IsTheFirstProcessOfItsNamespaceAndADaemonInAnotherNetwork) {
  // A network namespace that a process holds is as good as a file in /run/netns.
  Pipe until, ready;
  const pid_t holder = ::fork();
  if (holder == 0) {
    until.write.reset();
    char byte = 0;
    const bool made = ::unshare(CLONE_NEWNET) == 0 && ::write(ready.write.get(), &byte, 1) == 1;
    ::_exit(made && ::read(until.read.get(), &byte, 1) == 0 ? 0 : 1);
  }
  const Stranger end_of_holder{holder};
  char byte = 0;
  ASSERT_EQ(::read(ready.read.get(), &byte, 1), 1);
  const std::string netns = "/proc/" + std::to_string(holder) + "/ns/net";
  const Outcome outcome = run(
      jail("vm", monitor_binary(), {"--daemonize", "--new-pid-ns", "--netns", netns, "--", "--api-sock", "/api.sock"}));
  ASSERT_EQ(outcome.code, 0) << outcome.said;
  const pid_t pid = daemon_pid("vm");
  Stranger monitor{pid};
  const OwnedFd connection = SocketWaiter{root("vm") + "/api.sock"}.connect();
  EXPECT_EQ(exchange(connection.get(), "GET", "/", "").status, 200);
  EXPECT_EQ(status_of(pid, "NSpid"), std::to_string(pid) + "\t1");
  EXPECT_EQ(::getsid(pid), pid);
  EXPECT_EQ(link_of(pid, "ns/net"), link_of(holder, "ns/net"));
  EXPECT_NE(link_of(pid, "ns/pid"), link_of(::getpid(), "ns/pid"));
  struct stat stream{}, null{};
  ASSERT_EQ(::stat("/dev/null", &null), 0);
  for (const char* const fd : {"0", "1", "2"}) {
    ASSERT_EQ(::stat(("/proc/" + std::to_string(pid) + "/fd/" + fd).c_str(), &stream), 0);
    EXPECT_EQ(stream.st_rdev, null.st_rdev);
  }

  const Outcome refused = clean_up("vm", monitor_binary());
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.said.find("the process " + std::to_string(pid) + " runs in it"), std::string::npos) << refused.said;
  EXPECT_TRUE(fs::exists(root("vm") + "/mayfly"));
  monitor.end();
  end_and_clean_up("vm");
}

TEST_F(JailedMonitorTest, IsInItsCgroup) {
  const auto cgroup = find_cgroup();
  if (!cgroup) GTEST_SKIP() << "no cgroups with a pids controller are mounted at /sys/fs/cgroup";
  put_guest("vm", "hello");
  Jailed monitor{root("vm"), jail("vm", monitor_binary(), cgroup->flags)};
  EXPECT_EQ(content_of(cgroup->parent + "/vm/cgroup.procs"), std::to_string(monitor.pid()) + "\n");
  EXPECT_EQ(content_of(cgroup->parent + "/vm/pids.max"), "99\n");
  monitor.boot();
  monitor.expect_pass();
  end_and_clean_up("vm");
  EXPECT_FALSE(fs::exists(cgroup->parent + "/vm"));
}

TEST_F(JailedMonitorTest, KeepsItsCgroupWhenAJailOfItsIdInAnotherBaseIsCleanedUp) {
  const auto cgroup = find_cgroup();
  if (!cgroup) GTEST_SKIP() << "no cgroups with a pids controller are mounted at /sys/fs/cgroup";
  put_guest("vm", "hello");
  Jailed monitor{root("vm"), jail("vm", monitor_binary(), cgroup->flags)};
  const std::string other_base = base() + "/other";
  fs::create_directories(other_base + "/mayfly/vm/root");
  const Outcome outcome = run({"cleanup", "vm", "--exec-file", monitor_binary(), "--chroot-base-dir", other_base,
                               "--parent-cgroup", parent_cgroup()});
  EXPECT_EQ(outcome.code, 0) << outcome.said;
  EXPECT_FALSE(fs::exists(other_base + "/mayfly/vm"));
  EXPECT_EQ(content_of(cgroup->parent + "/vm/cgroup.procs"), std::to_string(monitor.pid()) + "\n");
  monitor.boot();
  monitor.expect_pass();
  end_and_clean_up("vm");
}

TEST_F(JailedMonitorTest, IsReachedFromOutsideByItsId) {
  put_guest("vm", "survivor");
  Jailed monitor{root("vm"), jail("vm", monitor_binary())};
  monitor.boot();
  const auto mayfly = [](const std::vector<std::string>& words) {
    std::vector<std::string> all = {monitor_binary()};
    all.insert(all.end(), words.begin(), words.end());
    return ChildProcess{all, {.in = -1, .out = -1, .err = -1}}.wait();
  };
  EXPECT_EQ(mayfly({"pause", "vm"}), 0);
  EXPECT_EQ(mayfly({"snapshot", "create", "vm", "--state", "/state", "--memory", "/memory"}), 0);
  EXPECT_TRUE(fs::exists(root("vm") + "/state"));
  EXPECT_EQ(mayfly({"stop", "--now", "vm"}), 0);
}

TEST_F(JailedMonitorTest, IsSnapshottedAndRestoredInAnotherJail) {
  move_a_snapshot("first", "second");
  Jailed monitor{root("second"), jail("second", monitor_binary(), {"--new-pid-ns"})};
  const Stranger end_of_monitor{daemon_pid("second")};
  monitor.must("PUT", "/snapshot/load",
               R"({"snapshot_path": "/state", "mem_backend": {"backend_type": "File", "backend_path": "/memory"},
                   "resume_vm": true})");
  monitor.type("r");
  monitor.console_until("round 1 ok");
  monitor.type("q");
  monitor.expect_pass();
}

TEST_F(JailedMonitorTest, IsRestoredByFlagsInAnotherJail) {
  move_a_snapshot("first", "second");
  Jailed monitor{root("second"),
                 jail("second", monitor_binary()),
                 {"restore", "--api-sock", "/api.sock", "--state", "/state", "--memory", "/memory"}};
  monitor.type("r");
  monitor.console_until("round 1 ok");
  monitor.type("q");
  monitor.expect_pass();
}

TEST_F(JailedMonitorTest, IsToldWhatGivesAJailUserFaults) {
  if (content_of("/proc/sys/vm/unprivileged_userfaultfd") == "1\n") GTEST_SKIP() << "here they are everybody's";
  move_a_snapshot("first", "second");
  Jailed monitor{root("second"), jail("second", monitor_binary())};
  const HttpAnswer refused =
      monitor.send("PUT", "/snapshot/load",
                   R"({"snapshot_path": "/state", "mem_backend": {"backend_type": "File", "backend_path": "/memory"},
          "working_set": {"mode": "Record", "path": "/set"}})");
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("--allow-userfaultfd"), std::string::npos) << refused.body;
}

}  // namespace
}  // namespace mayfly::testing
