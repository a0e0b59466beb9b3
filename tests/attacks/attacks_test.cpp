// What somebody tries who has taken over a thread of the monitor, and what stops them: a row each, printed as a table.

#include "jailer/seccomp/thread_filters.h"
#include "tests/attacks/back_door.h"
#include "tests/integration/jail.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <stdexcept>

namespace mayfly::testing {
namespace {

using back_door::Attack;

std::string back_door_binary() { return build_file("tests/attacks/mayfly-back-door"); }

const Attack& attack_named(std::string_view name) {
  return *std::ranges::find(back_door::attacks(), name, &Attack::name);
}

void print_row(std::string_view attack, std::string_view thread, std::string_view layer, std::string_view how) {
  std::printf("| %-13.*s | %-8.*s | %-7.*s | %.*s\n", static_cast<int>(attack.size()), attack.data(),
              static_cast<int>(thread.size()), thread.data(), static_cast<int>(layer.size()), layer.data(),
              static_cast<int>(how.size()), how.data());
}

struct End {
  int code = 0;
  std::string said;
};

/// The monitor with the back door, and what it says until it has ended.
class Attacked {
 public:
  Attacked(const std::string& thread, const std::string& attack, const std::vector<std::string>& more = {}) {
    std::vector<std::string> all = {back_door_binary(), "--attack", thread + ":" + attack, "--api-sock", socket_};
    all.insert(all.end(), more.begin(), more.end());
    process_.emplace(all, ChildProcess::Streams{.in = -1, .out = -1, .err = err_.write.get()});
    err_.write.reset();
  }
  /// A request whose answer may be the monitor's end.
  void put(const std::string& path, const std::string& body) {
    if (!connection_) connection_ = waiter_.connect();
    try {
      (void)exchange(connection_.get(), "PUT", path, body);
    } catch (const std::runtime_error&) {  // the attack came first
    }
  }
  End end() {
    End end;
    read_until(err_.read.get(), end.said, "");
    end.code = process_->wait();
    return end;
  }

 private:
  ScratchDirectory scratch_;
  std::string socket_ = scratch_.file("api");
  SocketWaiter waiter_{socket_};
  Pipe err_;
  std::optional<ChildProcess> process_;
  OwnedFd connection_;
};

/// What gives a machine a channel.
constexpr std::array kOfAChannel = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"/network-interfaces/eth0", R"({"iface_id": "eth0"})"},
    {"/mmds/config", R"({"network_interfaces": ["eth0"]})"},
    {"/channels/1024", R"({"port": 1024, "uds_path": "/run/nobody-is-there"})"},
});

/// A snapshot to load with a recorder, or to go back to; made once.
class Loadable {
 public:
  explicit Loadable(bool with_channel) {
    Monitor monitor;
    if (with_channel)
      for (const auto& [path, body] : kOfAChannel) must(monitor.put(std::string{path}, std::string{body}));
    monitor.boot("toucher", "console=ttyS0 span_mib=1 pages=1");
    monitor.console_until("toucher ready");
    must(monitor.patch("/vm", R"({"state": "Paused"})"));
    must(monitor.put("/snapshot/create", R"({"snapshot_path": ")" + scratch_.file("state") +
                                             R"(", "mem_file_path": ")" + scratch_.file("memory") + "\"}"));
  }
  [[nodiscard]] std::string recorded() const {
    return load(R"("working_set": {"mode": "Record", "path": ")" + scratch_.file("set") + "\"}");
  }
  [[nodiscard]] std::string revertible() const { return load(R"("revertible": true)"); }

 private:
  static void must(const HttpAnswer& answer) {
    if (answer.status != 204) throw std::runtime_error(answer.body);
  }
  [[nodiscard]] std::string load(const std::string& more) const {
    return R"({"snapshot_path": ")" + scratch_.file("state") +
           R"(", "mem_backend": {"backend_type": "File", "backend_path": ")" + scratch_.file("memory") + "\"}, " +
           more + "}";
  }
  ScratchDirectory scratch_;
};

/// Of the loop's thread, once its machine runs.
ThreadKind kind_named(std::string_view thread) {
  return static_cast<ThreadKind>(std::ranges::find(kThreadNames, thread) - kThreadNames.begin());
}
bool is_second(std::string_view thread) { return is_of_running_machine(kind_named(thread)); }
bool is_live(std::string_view thread) { return traits_of(kind_named(thread)).takes_live_snapshots; }
bool may_revert(std::string_view thread) { return traits_of(kind_named(thread)).reverts; }
bool has_channels(std::string_view thread) { return traits_of(kind_named(thread)).has_channels; }

End attack_from(const std::string& thread, const std::string& attack, std::vector<std::string> more = {}) {
  if (is_live(thread)) more.emplace_back("--live-snapshots");
  if (thread == "brancher") more.emplace_back("--branches");
  Attacked monitor{thread, attack, more};
  const bool loads = thread == "recorder" || may_revert(thread);
  if (!loads && has_channels(thread))
    for (const auto& [path, body] : kOfAChannel) monitor.put(std::string{path}, std::string{body});
  if (thread == "vcpu" || (is_second(thread) && !loads)) {
    monitor.put("/boot-source", R"({"kernel_image_path": ")" + guest_path("spin") + "\"}");
    monitor.put("/actions", R"({"action_type": "InstanceStart"})");
  } else if (loads) {
    static const Loadable plain{false};
    static const Loadable with_channel{true};
    const Loadable& loadable = has_channels(thread) ? with_channel : plain;
    monitor.put("/snapshot/load", thread == "recorder" ? loadable.recorded() : loadable.revertible());
  }
  return monitor.end();
}

struct Row {
  std::string thread;
  std::string attack;
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.thread << ':' << row.attack; }

class AttackFromAThread : public ::testing::TestWithParam<Row> {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "/dev/kvm is missing or not permitted";
  }
};

/// What sets a vCPU that is there, and makes nothing.
constexpr std::string_view kSetsVcpus = "kvm-msrs";
/// What makes a process, as a live snapshot does.
constexpr std::string_view kForks = "fork-quietly";

/// What channels need.
constexpr std::array<std::string_view, 4> kOfChannels = {"channel-socket", "connect", "accept", "shutdown"};
bool is_of_channels(std::string_view thread, std::string_view attack) {
  return has_channels(thread) && std::ranges::find(kOfChannels, attack) != kOfChannels.end();
}

/// The price of branches: what some thread of a monitor may do, the one that makes children may, as it is a child's first
/// thread; and it does not know a child's number when its filter is installed.
constexpr std::array<std::string_view, 22> kOfBranches = {
    "open",        "kill-thread", "read-process", kForks,   "ring",        "kvm-machine",
    "kvm-enable",  "kvm-memory",  kSetsVcpus,     "tap",    "hold-faults", "watch-faults",
    "unix-socket", "connect",     "send",         "thread", "filter",      "channel-socket",
    "accept",      "shutdown",    "bind",         "listen"};
bool is_of_branches(std::string_view thread, std::string_view attack) {
  return thread == "brancher" && std::ranges::find(kOfBranches, attack) != kOfBranches.end();
}

std::vector<Row> filtered_rows() {
  std::vector<Row> rows;
  for (const std::string_view thread : kThreadNames)
    for (const Attack& attack : back_door::attacks()) {
      if (attack.call.empty()) continue;
      // It opens what commands name: the jail's row.
      if ((thread == "loop" || is_second(thread)) && attack.name == "open") continue;
      if (thread == "loop" && attack.is_setting_up) continue;
      // The worker that writes a snapshot, under both filters.
      if (is_second(thread) && attack.name == "thread") continue;
      // The price of going back to a snapshot: the row of SettingUp.
      if (may_revert(thread) && attack.name == kSetsVcpus) continue;
      if (is_of_branches(thread, attack.name)) continue;
      // The price of channels.
      if (is_of_channels(thread, attack.name)) continue;
      // How it answers.
      if (thread == "api" && attack.name == "shutdown") continue;
      // The price of live snapshots.
      if (is_live(thread) && attack.name == kForks) continue;
      rows.push_back({std::string{thread}, std::string{attack.name}});
    }
  return rows;
}

TEST_P(AttackFromAThread, IsRefusedByItsFilter) {
  const auto& [thread, name] = GetParam();
  const Attack& attack = attack_named(name);
  const End end = attack_from(thread, name);
  if (attack.call == "clone3" &&
      (thread == "loop" || thread == "brancher" || is_second(thread))) {  // answered, so that the C library uses clone
    ASSERT_EQ(end.code, back_door::kExitTried) << end.said;
    ASSERT_NE(end.said.find("clone3 refused: Function not implemented (ENOSYS)"), std::string::npos) << end.said;
    print_row(name, thread, "seccomp", "ENOSYS");
    return;
  }
  ASSERT_EQ(end.code, seccomp::kExitViolation) << end.said;
  const std::string begin = "seccomp: thread " + thread + " called system call ";
  ASSERT_NE(end.said.find(begin), std::string::npos) << end.said;
  ASSERT_NE(end.said.find(" (" + std::string{attack.call} + "), which its filter does not allow\n"), std::string::npos)
      << end.said;
  print_row(name, thread, "seccomp", "the process ended, code 148");
}

std::string name_of_row(const ::testing::TestParamInfo<Row>& info) {
  std::string name = info.param.thread + "_" + info.param.attack;
  std::ranges::replace(name, '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Seccomp, AttackFromAThread, ::testing::ValuesIn(filtered_rows()), name_of_row);

/// What sets a machine up is let through until the machine runs: so it is the second filter that refuses it then. A
/// machine that may go back to its snapshot goes on to set its vCPUs, one that has channels to make sockets, a process
/// that may take live snapshots to make processes, and one that may have children goes on to set machines up.
class SettingUp : public AttackFromAThread {};

TEST_P(SettingUp, IsTheLoopsUntilItsMachineRuns) {
  const auto& [thread, name] = GetParam();
  const End end = attack_from(thread, name);
  EXPECT_EQ(end.code, back_door::kExitTried) << end.said;
  EXPECT_EQ(end.said.find("seccomp:"), std::string::npos) << end.said;
}

std::vector<Row> setting_up() {
  std::vector<Row> rows;
  for (const Attack& attack : back_door::attacks())
    if (attack.is_setting_up) rows.push_back({"loop", std::string{attack.name}});
  for (const std::string_view thread : kThreadNames) {
    if (may_revert(thread)) rows.push_back({std::string{thread}, std::string{kSetsVcpus}});
    if (is_live(thread)) rows.push_back({std::string{thread}, std::string{kForks}});
    if (has_channels(thread))
      for (const std::string_view attack : kOfChannels) rows.push_back({std::string{thread}, std::string{attack}});
  }
  for (const std::string_view attack : kOfBranches) rows.push_back({"brancher", std::string{attack}});
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Seccomp, SettingUp, ::testing::ValuesIn(setting_up()), name_of_row);

class AttackByTheRing : public ::testing::TestWithParam<Row> {};

TEST_P(AttackByTheRing, IsRefusedByTheRing) {
  const auto& [thread, name] = GetParam();
  const End end = attack_from(thread, name);
  ASSERT_EQ(end.code, back_door::kExitTried) << end.said;
  ASSERT_NE(end.said.find(name + " refused: Permission denied (EACCES)"), std::string::npos) << end.said;
  print_row(name, thread, "ring", "EACCES");
}

INSTANTIATE_TEST_SUITE_P(Ring, AttackByTheRing, ::testing::Values(Row{"loop", "ring-open"}, Row{"loop", "ring-socket"}),
                         name_of_row);

/// The jail, without filters: what stands behind them.
class AttackFromAJail : public JailTest, public ::testing::WithParamInterface<Row> {
 protected:
  [[nodiscard]] Outcome attack(const std::vector<std::string>& more) const {
    auto words = jail("attack", back_door_binary(),
                      {"--", "--attack", GetParam().thread + ":" + GetParam().attack, "--api-sock", "/api.sock"});
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  }
};

TEST_P(AttackFromAJail, IsRefusedByTheJail) {
  const auto& [thread, name] = GetParam();
  // With filters where they let it through.
  const Outcome outcome =
      attack(name == "open" ? std::vector<std::string>{} : std::vector<std::string>{"--no-seccomp"});
  ASSERT_EQ(outcome.code, back_door::kExitTried) << outcome.said;
  const std::string begin = "mayfly-back-door: " + name + " refused: ";
  const std::size_t at = outcome.said.find(begin);
  ASSERT_NE(at, std::string::npos) << outcome.said;
  const std::size_t from = at + begin.size();
  print_row(name, thread, "jail", outcome.said.substr(from, outcome.said.find('\n', from) - from));
  EXPECT_EQ(clean_up("attack", back_door_binary()).code, 0);
}

INSTANTIATE_TEST_SUITE_P(Jail, AttackFromAJail,
                         ::testing::Values(Row{"loop", "open"}, Row{"loop", "execute"}, Row{"loop", "ptrace"},
                                           Row{"loop", "mount"}, Row{"loop", "chroot"}, Row{"loop", "kill"},
                                           Row{"loop", "read-process"}),
                         name_of_row);

/// Else the rows above would prove nothing.
TEST(BackDoor, GoesThroughWhereNothingStandsInItsWay) {
  for (const char* const attack : {"open", "socket", "fork", "map-code", "make-code", "ring"}) {
    const End end = attack_from("loop", attack, {"--no-seccomp"});
    EXPECT_EQ(end.code, back_door::kExitTried);
    EXPECT_NE(end.said.find("mayfly-back-door: " + std::string{attack} + " went through"), std::string::npos)
        << end.said;
  }
}

TEST(BackDoor, IsInNoProduct) {
  const std::string mark = "mayfly-back-door";
  EXPECT_NE(content_of(back_door_binary()).find(mark), std::string::npos);
  EXPECT_EQ(content_of(monitor_binary()).find(mark), std::string::npos);
  EXPECT_EQ(content_of(jailer_binary()).find(mark), std::string::npos);
}

}  // namespace
}  // namespace mayfly::testing
