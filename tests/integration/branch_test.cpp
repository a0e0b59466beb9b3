// Children of a machine (PUT /vm/branch): each goes on from where it was, in a process of its own.

#include "snapshot/verify.h"
#include "tests/integration/channel_hosts.h"
#include "tests/integration/layered_fixture.h"
#include "tests/support/repeats.h"
#include "tests/support/tap_network.h"

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <thread>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

/// A child, which is no child of ours: it ends with this.
class Child {
 public:
  Child(const ScratchDirectory& scratch, std::string id) : id_(std::move(id)) {
    socket_ = scratch.file(id_ + ".sock");
    console_ = make_file(scratch.file(id_ + ".out"), "");
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  /// Also one that a test which failed has not found.
  ~Child() {
    if (pid_ < 0) pid_ = process_with_mark();
    if (pid_ > 0 && !stopped_) ::kill(pid_, SIGKILL);
  }
  /// As PUT /vm/branch wants it.
  [[nodiscard]] std::string json(const std::string& more = "") const {
    return R"({"id": ")" + id_ + R"(", "api_socket": ")" + socket_ + R"(", "serial_out_path": ")" + console_ + '"' +
           more + "}";
  }
  [[nodiscard]] const std::string& id() const noexcept { return id_; }
  [[nodiscard]] const std::string& socket() const noexcept { return socket_; }
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }

  /// Finds itself in the answer, as being up.
  void find_in(const HttpAnswer& answer) {
    ASSERT_EQ(answer.status, 200) << answer.body;
    const std::size_t at = answer.body.find("\"id\":\"" + id_ + '"');
    ASSERT_NE(at, std::string::npos) << answer.body;
    const std::size_t pid = answer.body.find("\"pid\":", at);
    ASSERT_NE(pid, std::string::npos) << answer.body;
    ASSERT_LT(pid, answer.body.find('}', at)) << answer.body;
    pid_ = static_cast<pid_t>(std::strtol(answer.body.c_str() + pid + 6, nullptr, 10));
    api_ = connect_unix(socket_);
    ASSERT_TRUE(api_);
  }
  /// The same without an answer: by its mark among all processes, until it listens or is gone. Whether it is up.
  bool find_itself() {
    for (const double deadline = now_us() + kDeadlineUs; now_us() < deadline;) {
      const pid_t found = process_with_mark();
      if (found < 0) return false;
      pid_ = found;
      api_ = connect_unix(socket_);
      if (api_) return true;
    }
    give_up(id_ + " is there and does not listen");
  }
  /// Whether it says what it is; else its parent was killed before it had let go of it, and it ends.
  [[nodiscard]] bool answers() const {
    const OwnedFd api = connect_unix(socket_);
    constexpr std::string_view kAsk = "GET / HTTP/1.1\r\n\r\n";
    char first = 0;
    return api && ::send(api.get(), kAsk.data(), kAsk.size(), MSG_NOSIGNAL) > 0 && ::recv(api.get(), &first, 1, 0) == 1;
  }
  HttpAnswer send(const std::string& method, const std::string& path, const std::string& body = "") {
    return exchange(api_.get(), method, path, body);
  }
  [[nodiscard]] std::string console() const { return content_of(console_); }
  /// What the console has once `wanted` is there.
  std::string console_until(const std::string& wanted) const {
    for (const double deadline = now_us() + kDeadlineUs; now_us() < deadline;) {
      std::string text = console();
      if (text.find(wanted) != std::string::npos) return text;
      std::this_thread::yield();
    }
    give_up("the console of " + id_ + " does not say " + wanted + " but " + console());
  }
  void expect_runs() { EXPECT_NE(send("GET", "/").body.find(R"("state":"Running")"), std::string::npos); }
  void stop() {
    ::kill(pid_, SIGTERM);
    for (const double deadline = now_us() + kDeadlineUs; now_us() < deadline && ::access(socket_.c_str(), F_OK) == 0;)
      std::this_thread::yield();
    EXPECT_NE(::access(socket_.c_str(), F_OK), 0) << "its socket goes with it";
    stopped_ = true;
  }

 private:
  [[nodiscard]] pid_t process_with_mark() const {
    const std::string mark = "mayfly-branch:" + id_ + ':';
    std::error_code gone;  // processes end while they are looked at
    for (const auto& process : fs::directory_iterator{"/proc"})
      for (fs::directory_iterator file{process.path() / "fd", gone}, end; !gone && file != end; file.increment(gone))
        if (fs::read_symlink(file->path(), gone).string().find(mark) != std::string::npos)
          return std::atoi(process.path().filename().c_str());
    return -1;
  }

  std::string id_;
  std::string socket_;
  std::string console_;
  pid_t pid_ = -1;
  bool stopped_ = false;
  OwnedFd api_;
};

std::vector<std::string> options() { return {"--branches"}; }

std::string body_of(const std::vector<std::string>& children, const std::string& more = "") {
  std::string body = R"({"children": [)";
  for (const std::string& child : children) body += (&child == children.data() ? "" : ", ") + child;
  return body + "]" + more + "}";
}

/// The generation id and the round that were printed last.
std::pair<std::string, unsigned> last_round(const std::string& console) {
  const std::size_t end = console.rfind('\n');
  const std::size_t at = end == std::string::npos ? end : console.rfind("diverger ", end);
  if (at == std::string::npos) return {};
  const std::size_t id = at + 9;
  const std::size_t round = console.find(" round ", id);
  if (round > end) return {};
  return {console.substr(id, round - id),
          static_cast<unsigned>(std::strtoul(console.c_str() + round + 7, nullptr, 10))};
}

class BranchTest : public LayeredTest {
 protected:
  static void boot_diverger(Monitor& monitor, const std::string& more = "") {
    must(monitor.put("/machine-config", R"({"mem_size_mib": 64, "vcpu_count": 1)" + more + "}"));
    monitor.boot("diverger", "console=ttyS0 mib=8");
    monitor.console_until("round 1\n");
  }
  /// What it has said since, twice: whole rounds, in which it has looked at all of its memory.
  static std::string expect_diverges(const Child& child) {
    // A child's first line may be the end of one that its parent had begun.
    child.console_until("diverger");
    child.console_until("round");
    for (const double deadline = now_us() + kDeadlineUs;
         last_round(child.console()).second == 0 && now_us() < deadline;)
      std::this_thread::yield();
    const unsigned round = last_round(child.console()).second;
    const auto text = child.console_until("round " + std::to_string(round + 16) + "\n");
    EXPECT_EQ(text.find("FAIL"), std::string::npos) << text;
    return last_round(text).first;
  }
  static void expect_goes_on(Monitor& monitor) {
    const unsigned round = last_round(monitor.console_until("\n")).second;
    monitor.console_until("round " + std::to_string(round + 32) + "\n");
    EXPECT_EQ(monitor.console_until("round").find("FAIL"), std::string::npos);
  }
};

TEST_F(BranchTest, ParentAndChildrenWriteToTheirOwnMemoryAlone) {
  Monitor parent{options()};
  boot_diverger(parent);
  Child one{scratch_, "one"};
  Child two{scratch_, "two"};
  const HttpAnswer answer = parent.put("/vm/branch", body_of({one.json(), two.json()}));
  one.find_in(answer);
  two.find_in(answer);
  if (HasFatalFailure()) return;
  Child grandchild{scratch_, "grandchild"};
  grandchild.find_in(one.send("PUT", "/vm/branch", body_of({grandchild.json()})));
  if (HasFatalFailure()) return;
  Child last{scratch_, "last"};
  last.find_in(grandchild.send("PUT", "/vm/branch", body_of({last.json()})));
  if (HasFatalFailure()) return;
  std::set<std::string> ids;
  for (const Child* child : {&one, &two, &grandchild, &last}) ids.insert(expect_diverges(*child));
  expect_goes_on(parent);
  ids.insert(last_round(parent.console_until("\n")).first);
  EXPECT_EQ(ids.size(), 5U) << "each has a generation id of its own";
  one.expect_runs();
  EXPECT_NE(one.send("GET", "/").body.find(R"("id":"one")"), std::string::npos);
  const std::string metrics = parent.get("/metrics/prometheus").body;
  EXPECT_NE(metrics.find("mayfly_branch_children 2\n"), std::string::npos);
  EXPECT_NE(metrics.find("mayfly_branch_made_count_total 2\n"), std::string::npos);
  // What the guest does not write to again stays shared; it goes on writing to 8 MiB.
  const auto pages = [&metrics](const std::string& whose) {
    const std::string key = "\nmayfly_branch_" + whose + "_pages ";
    return std::atoi(metrics.c_str() + metrics.find(key) + key.size());
  };
  EXPECT_GT(pages("shared"), 0);
  EXPECT_GT(pages("own"), 0);
}

TEST_F(BranchTest, AnInterfaceWithoutATapNeedsNoneInAChildEither) {
  Monitor parent{options()};
  must(parent.put("/network-interfaces/eth0", R"({"iface_id": "eth0"})"));
  boot_diverger(parent);
  Child one{scratch_, "one"};
  one.find_in(parent.put("/vm/branch", body_of({one.json()})));
  if (HasFatalFailure()) return;
  (void)expect_diverges(one);
  EXPECT_EQ(one.send("GET", "/vm/config").body.find("host_dev_name"), std::string::npos);
}

TEST_F(BranchTest, AChildsConsoleAndLogHaveTheLimitsOfItsParents) {
  Monitor parent{options()};
  must(parent.put("/serial", R"({"serial_out_path": ")" + file("console") + R"(", "max_bytes": 131072})"));
  must(parent.put("/logger", R"({"log_path": ")" + file("log") + R"(", "max_bytes": 131072})"));
  parent.boot("diverger", "console=ttyS0 mib=8");
  Child one{scratch_, "one"};
  one.find_in(parent.put("/vm/branch", body_of({one.json()})));
  if (HasFatalFailure()) return;
  (void)expect_diverges(one);
  const std::string config = one.send("GET", "/vm/config").body;
  EXPECT_NE(config.find(file("one.out") + R"(","max_bytes":131072})"), std::string::npos) << config;
  EXPECT_NE(content_of(file("log")).find("branched off as one"), std::string::npos);
}

TEST_F(BranchTest, AChildListensAtItsOwnSocketAndItsAgentRedials) {
  Monitor parent{options()};
  must(parent.put("/network-interfaces/eth0", R"({"iface_id": "eth0"})"));
  must(parent.put("/mmds/config", R"({"network_interfaces": ["eth0"]})"));
  must(parent.put("/channels/1024", listening(file("parent.channel"))));
  parent.boot("link_local", "console=ttyS0 channel=1024 agent=1");
  const OwnedFd before = connect_to_channel(file("parent.channel"));
  EXPECT_EQ(exchange_on(before.get(), "before", 6), "before");
  Child one{scratch_, "one"};
  const auto of_port = [&](const std::string& port) {
    return R"(, "channel_overrides": [{"port": )" + port + R"(, "uds_path": ")" + file("one.channel") + "\"}]";
  };
  const auto refused = [&](const std::string& more) { return parent.put("/vm/branch", body_of({one.json(more)})); };
  EXPECT_NE(refused("").body.find("child one: channel_overrides: channel 1024, which listens, is missing"),
            std::string::npos);
  EXPECT_NE(refused(of_port("1025")).body.find("child one: channel_overrides: there is no channel 1025"),
            std::string::npos);
  one.find_in(parent.put("/vm/branch", body_of({one.json(of_port("1024"))})));
  if (HasFatalFailure()) return;
  one.console_until("channel reset");
  const OwnedFd own = connect_to_channel(file("one.channel"));
  EXPECT_EQ(exchange_on(own.get(), "child", 5), "child");
  EXPECT_EQ(exchange_on(before.get(), "parent", 6), "parent");
  one.stop();
  for (const double deadline = now_us() + kDeadlineUs; now_us() < deadline && fs::exists(file("one.channel"));)
    std::this_thread::yield();
  EXPECT_FALSE(fs::exists(file("one.channel")));
  EXPECT_TRUE(fs::exists(file("parent.channel")));
}

TEST_F(BranchTest, ATreeIsTenDeepAndItsRootEndsFirst) {
  Monitor parent{options()};
  boot_diverger(parent);
  std::vector<std::unique_ptr<Child>> line;
  for (int depth = 1; depth <= 10; ++depth) {
    auto child = std::make_unique<Child>(scratch_, "depth-" + std::to_string(depth));
    const std::string body = body_of({child->json()});
    child->find_in(line.empty() ? parent.put("/vm/branch", body) : line.back()->send("PUT", "/vm/branch", body));
    if (HasFatalFailure()) return;
    line.push_back(std::move(child));
  }
  parent.signal(SIGTERM);
  (void)parent.wait();
  line.front()->stop();
  for (std::size_t i = 1; i < line.size(); ++i) (void)expect_diverges(*line[i]);
}

TEST_F(BranchTest, KillsOfParentAndChildLeaveTheOthersWhole) {
  Monitor parent{options()};
  boot_diverger(parent);
  Child one{scratch_, "one"};
  Child two{scratch_, "two"};
  const HttpAnswer answer = parent.put("/vm/branch", body_of({one.json(), two.json()}));
  one.find_in(answer);
  two.find_in(answer);
  if (HasFatalFailure()) return;
  ::kill(one.pid(), SIGKILL);
  for (const double deadline = now_us() + kDeadlineUs; now_us() < deadline;)
    if (parent.get("/metrics/prometheus").body.find("mayfly_branch_children 1\n") != std::string::npos) break;
  EXPECT_NE(parent.get("/metrics/prometheus").body.find("mayfly_branch_children 1\n"), std::string::npos);
  expect_goes_on(parent);
  parent.signal(SIGKILL);
  (void)parent.wait();
  (void)expect_diverges(two);
  two.expect_runs();
}

TEST_F(BranchTest, AChildThatCannotComeUpSaysWhyAndTheOthersDo) {
  Monitor parent{options()};
  boot_diverger(parent);
  Child good{scratch_, "good"};
  Child taken{scratch_, "taken"};
  make_file(taken.socket(), "no socket");
  const std::string nowhere =
      R"({"id": "nowhere", "api_socket": ")" + file("nowhere.sock") + R"(", "serial_out_path": "/no/such/file"})";
  const HttpAnswer answer = parent.put("/vm/branch", body_of({taken.json(), good.json(), nowhere}));
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_NE(answer.body.find("a file that is no socket is there"), std::string::npos) << answer.body;
  EXPECT_NE(answer.body.find("serial_out_path /no/such/file"), std::string::npos) << answer.body;
  good.find_in(answer);
  if (HasFatalFailure()) return;
  (void)expect_diverges(good);
  EXPECT_FALSE(fs::exists(file("nowhere.sock"))) << "nothing of a child that is not there";
  expect_goes_on(parent);
  fs::remove(taken.socket());
  taken.find_in(parent.put("/vm/branch", body_of({taken.json()})));
}

TEST_F(BranchTest, WhereNoChildComesUpTheLayersAreNamedOrThereAreNone) {
  Monitor parent{options()};
  must(parent.put("/drives/data", drive("overlay")));
  parent.boot("block", "console=ttyS0 until_key=1");
  parent.console_until("round 2 done");
  const std::string config = parent.get("/vm/config").body;
  const std::string frozen = R"(, "frozen_drives": [{"drive_id": "data", "path_on_host": ")" + file("frozen") + "\"}]";
  const auto child = [&](const std::string& socket, const std::string& overlay, const std::string& more = "") {
    return R"({"id": "one", "api_socket": ")" + file(socket) +
           R"(", "drive_overrides": [{"drive_id": "data", "path_on_host": ")" + file(overlay) + "\"}]" + more + "}";
  };
  for (const std::string& impossible : {child("none/sock", "one.overlay"), child("sock", "none/one.overlay")}) {
    const HttpAnswer refused = parent.put("/vm/branch", body_of({impossible}, frozen));
    EXPECT_EQ(refused.status, 400) << refused.body;
    EXPECT_NE(refused.body.find("nothing can be made in its directory"), std::string::npos) << refused.body;
    EXPECT_EQ(parent.get("/vm/config").body, config);
    EXPECT_FALSE(fs::exists(file("frozen")));
  }
  const HttpAnswer answer = parent.put(
      "/vm/branch", body_of({child("sock", "one.overlay", R"(, "serial_out_path": "/no/such/file")")}, frozen));
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_NE(answer.body.find("keep " + file("frozen") + ": it is a layer of the machine's drive data now"),
            std::string::npos)
      << answer.body;
  parent.type("q");
  expect_pass(parent);
}

TEST_F(BranchTest, APausedMachinesChildIsPausedAndMetadataAreItsOwn) {
  Monitor parent{options()};
  must(parent.put("/mmds", R"({"whose": "parent's"})"));
  boot_diverger(parent);
  pause(parent);
  Child one{scratch_, "one"};
  Child two{scratch_, "two"};
  const HttpAnswer answer =
      parent.put("/vm/branch", body_of({one.json(R"(, "metadata": {"whose": "child's"})"), two.json()}));
  one.find_in(answer);
  two.find_in(answer);
  if (HasFatalFailure()) return;
  EXPECT_NE(one.send("GET", "/").body.find(R"("state":"Paused")"), std::string::npos);
  EXPECT_EQ(one.send("GET", "/mmds").body, R"({"whose":"child's"})");
  EXPECT_EQ(two.send("GET", "/mmds").body, "{}");
  must(one.send("PATCH", "/vm", R"({"state": "Resumed"})"));
  (void)expect_diverges(one);
  EXPECT_EQ(two.console(), "");
  EXPECT_NE(parent.get("/").body.find(R"("state":"Paused")"), std::string::npos);
}

TEST_F(BranchTest, EachHasItsOwnDriveOverTheOneThatWasFrozen) {
  Monitor parent{options()};
  must(parent.put("/drives/data", drive("overlay")));
  parent.boot("block", "console=ttyS0 until_key=1");
  parent.console_until("round 2 done");
  const auto with_drive = [&](const std::string& id) {
    return R"(, "drive_overrides": [{"drive_id": "data", "path_on_host": ")" + file(id + ".overlay") + "\"}]";
  };
  const std::string frozen = R"(, "frozen_drives": [{"drive_id": "data", "path_on_host": ")" + file("frozen") + "\"}]";
  Child one{scratch_, "one"};
  Child two{scratch_, "two"};
  make_file(file("two.overlay"), "not empty");
  const auto branch = [&](const std::string& overlay) {
    return parent.put("/vm/branch", body_of({one.json(with_drive("one")), two.json(with_drive(overlay))}, frozen));
  };
  for (const auto& [overlay, why] : {std::pair{"two", "is there already"}, {"one", "is given to another drive"}}) {
    const HttpAnswer refused = branch(overlay);
    EXPECT_EQ(refused.status, 400) << refused.body;
    EXPECT_NE(refused.body.find(why), std::string::npos) << refused.body;
    EXPECT_FALSE(fs::exists(file("frozen"))) << "nothing has changed";
  }
  fs::remove(file("two.overlay"));
  const HttpAnswer answer = branch("two");
  one.find_in(answer);
  two.find_in(answer);
  if (HasFatalFailure()) return;
  one.console_until(" done");
  const std::string said = one.console();
  const auto number = std::strtoul(said.c_str() + said.rfind("round ") + 6, nullptr, 10);
  one.console_until("round " + std::to_string(number + 2) + " done");
  EXPECT_EQ(one.console().find("FAIL"), std::string::npos) << one.console();
  EXPECT_NE(one.send("GET", "/vm/config").body.find(file("one.overlay")), std::string::npos);
  one.expect_runs();
  one.stop();
  parent.type("k");
  expect_pass(parent);
  expect_base_unchanged();
}

TEST_F(BranchTest, TwoRequestsAtOnceAreAnsweredOneAfterTheOther) {
  Monitor parent{options()};
  boot_diverger(parent);
  pause(parent);  // so that the second begins in the task that ends the first
  for (int round = 0; round < 20; ++round) {
    Child one{scratch_, "one-" + std::to_string(round)};
    Child two{scratch_, "two-" + std::to_string(round)};
    HttpAnswer second;
    {
      const std::jthread other{[&] {
        const OwnedFd api = connect_unix(parent.socket_path());
        second = exchange(api.get(), "PUT", "/vm/branch", body_of({two.json()}));
      }};
      one.find_in(parent.put("/vm/branch", body_of({one.json()})));
    }
    two.find_in(second);
    if (HasFatalFailure()) return;
  }
}

TEST_F(BranchTest, AChildOfAMachineThatLogsToADescriptorLogsToStandardError) {
  Monitor parent{options()};
  must(parent.put("/logger", R"({"log_path": "/dev/stdout", "level": "Info"})"));
  boot_diverger(parent);
  Child child{scratch_, "child"};
  child.find_in(parent.put("/vm/branch", body_of({child.json()})));
  if (HasFatalFailure()) return;
  (void)expect_diverges(child);
}

TEST_F(BranchTest, IsRefusedBeforeAnythingChanges) {
  Monitor without;
  boot_diverger(without);
  Child child{scratch_, "child"};
  const auto expect_refused = [&](Monitor& monitor, const std::string& body, const std::string& why) {
    const HttpAnswer answer = monitor.put("/vm/branch", body);
    EXPECT_EQ(answer.status, 400) << answer.body;
    EXPECT_NE(answer.body.find(why), std::string::npos) << answer.body;
  };
  expect_refused(without, body_of({child.json()}), "was started without --branches");
  expect_goes_on(without);

  Monitor in_place{options()};
  make_file(file("image"), std::string(1 << 20, '\0'));
  must(in_place.put("/drives/data",
                    R"({"drive_id": "data", "is_root_device": false, "path_on_host": ")" + file("image") + "\"}"));
  expect_refused(in_place, body_of({child.json()}), "after the machine has started");
  boot_diverger(in_place);
  expect_refused(in_place, body_of({child.json()}), "drive data is written to in place");

  Monitor layered{options()};
  must(layered.put("/drives/data", drive("overlay")));
  boot_diverger(layered);
  expect_refused(layered, body_of({child.json()}), "frozen_drives: drive data is missing");
  const std::string frozen = R"(, "frozen_drives": [{"drive_id": "data", "path_on_host": ")" + file("frozen") + "\"}]";
  expect_refused(layered, body_of({child.json()}, frozen), "drive_overrides: drive data is missing");
  EXPECT_FALSE(fs::exists(file("frozen")));
  expect_goes_on(layered);
}

TEST_F(BranchTest, SixteenChildrenOpenTheFrozenDriveAtOnce) {
  Monitor parent{options()};
  must(parent.put("/drives/data", drive("overlay")));
  parent.boot("block", "console=ttyS0 until_key=1");
  parent.console_until("round 2 done");
  for (int turn = 0; turn < repeats(2, 1); ++turn) {
    const std::string frozen = "frozen-" + std::to_string(turn);
    std::vector<std::unique_ptr<Child>> children;
    std::vector<std::string> bodies;
    for (int i = 0; i < 16; ++i) {
      children.push_back(std::make_unique<Child>(scratch_, "child-" + std::to_string(turn) + "-" + std::to_string(i)));
      bodies.push_back(children.back()->json(R"(, "drive_overrides": [{"drive_id": "data", "path_on_host": ")" +
                                             file(children.back()->id() + ".overlay") + "\"}]"));
    }
    const HttpAnswer answer = parent.put(
        "/vm/branch",
        body_of(bodies, R"(, "frozen_drives": [{"drive_id": "data", "path_on_host": ")" + file(frozen) + "\"}]"));
    for (const auto& child : children) {
      child->find_in(answer);
      if (HasFatalFailure()) return;
    }
    for (auto& child : children) {
      child->console_until("round ");
      EXPECT_EQ(child->console().find("FAIL"), std::string::npos) << child->console();
      child.reset();  // leaves the processors to the others
    }
  }
  parent.type("k");
  expect_pass(parent);
  expect_base_unchanged();
}

/// Whoever started a monitor may ignore its children's ends, and a process inherits that.
TEST_F(BranchTest, ItHearsOfItsChildrensEndsWhereTheSignalOfThemIsIgnored) {
  auto* const before = std::signal(SIGCHLD, SIG_IGN);
  Monitor parent{options()};
  std::signal(SIGCHLD, before);
  boot_diverger(parent);
  Child child{scratch_, "child"};
  child.find_in(parent.put("/vm/branch", body_of({child.json()})));
  if (HasFatalFailure()) return;
  const pid_t pid = child.pid();
  ::kill(pid, SIGKILL);
  for (const double deadline = now_us() + kDeadlineUs; now_us() < deadline;)
    if (parent.get("/metrics/prometheus").body.find("mayfly_branch_children 0\n") != std::string::npos) break;
  EXPECT_NE(parent.get("/metrics/prometheus").body.find("mayfly_branch_children 0\n"), std::string::npos);
  expect_goes_on(parent);
}

/// At moments that differ from turn to turn: before, while and after the children are made.
TEST_F(BranchTest, AParentThatIsKilledWhileItMakesChildrenLeavesWholeOnesOrNone) {
  int seen = 0;
  double late_us = 0;  // more where the host is slow
  for (int turns = 0; turns < 12 || (seen == 0 && late_us < 5e6); ++turns) {
    Monitor parent{options()};
    boot_diverger(parent);
    std::vector<std::unique_ptr<Child>> children;
    std::vector<std::string> bodies;
    for (int i = 0; i < 3; ++i) {
      children.push_back(std::make_unique<Child>(scratch_, std::to_string(turns) + "-" + std::to_string(i)));
      bodies.push_back(children.back()->json());
    }
    const std::string body = body_of(bodies);
    const OwnedFd api = connect_unix(parent.socket_path());
    const std::string request =
        "PUT /vm/branch HTTP/1.1\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    ASSERT_EQ(::write(api.get(), request.data(), request.size()), static_cast<ssize_t>(request.size()));
    late_us = turns < 12 ? 400 * turns : 2 * late_us;
    for (const double until = now_us() + late_us; now_us() < until;) {
    }
    parent.signal(SIGKILL);
    (void)parent.wait();
    for (const auto& child : children) {
      if (!child->find_itself() || !child->answers()) continue;
      ++seen;
      (void)expect_diverges(*child);
    }
  }
  EXPECT_GT(seen, 0) << "no turn was late enough";
}

TEST_F(BranchTest, ASnapshotOfAChildIsWholeOrRefusedInAJail) {
  Monitor parent{options()};
  boot_diverger(parent);
  Child child{scratch_, "child"};
  child.find_in(parent.put("/vm/branch", body_of({child.json()})));
  if (HasFatalFailure()) return;
  (void)expect_diverges(child);
  must(child.send("PATCH", "/vm", R"({"state": "Paused"})"));
  const HttpAnswer taken = child.send(
      "PUT", "/snapshot/create", R"({"snapshot_path": ")" + file("s") + R"(", "mem_file_path": ")" + file("m") + "\"}");
  if (MonitorJail::wanted()) {
    EXPECT_EQ(taken.status, 400);
    EXPECT_NE(taken.body.find("a child in its parent's jail"), std::string::npos) << taken.body;
    return;
  }
  must(taken);
  EXPECT_TRUE(verify_pair(file("s"), file("m")));
  Monitor clone;
  must(load(clone, "s", "m"));
  clone.console_until("round");
  const auto round = last_round(clone.console_until("\n")).second;
  clone.console_until("round " + std::to_string(round + 16) + "\n");
}

TEST_F(BranchTest, AChildOfACloneSharesItsFilesPages) {
  Monitor first{options()};
  boot_diverger(first);
  pause(first);
  must(create(first, "one"));
  Monitor clone{options()};
  must(load(clone, "one.state", "one.mem"));
  Child child{scratch_, "child"};
  child.find_in(clone.put("/vm/branch", body_of({child.json()})));
  if (HasFatalFailure()) return;
  (void)expect_diverges(child);
  clone.console_until("round");
}

}  // namespace
}  // namespace mayfly::testing
