// What a guest reaches inside its network interface (the bare-metal guest `link_local`), without a TAP, so without root's
// rights and in any network namespace.

#include "tests/integration/channel_hosts.h"
#include "tests/integration/snapshot_fixture.h"

#include <sys/socket.h>

#include <filesystem>
#include <random>
#include <string>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

class LinkLocalTest : public SnapshotTest {
 protected:
  /// A machine whose one interface has no TAP and serves metadata.
  static void configure(Monitor& monitor, const std::string& metadata) {
    must(monitor.put("/network-interfaces/eth0", R"({"iface_id": "eth0", "guest_mac": "06:00:00:00:00:01"})"));
    must(monitor.put("/mmds/config", R"({"network_interfaces": ["eth0"]})"));
    must(monitor.put("/mmds", metadata));
  }
  static void boot_link(Monitor& monitor, const std::string& arguments = "") {
    monitor.boot("link_local", "console=ttyS0 " + arguments);
    monitor.console_until("link ready");
  }
  static void expect_metadata(Monitor& monitor, const std::string& value) {
    monitor.type("m");
    monitor.console_until("metadata: " + value + "\n");
  }
  static std::string metric(Monitor& monitor, const std::string& name) {
    const std::string text = monitor.get("/metrics/prometheus").body;
    const std::size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? "none"
                                   : text.substr(at + name.size() + 2, text.find('\n', at + 1) - at - name.size() - 2);
  }
};

std::string noise(std::size_t length) {
  std::mt19937_64 random{42};
  std::string bytes(length, 0);
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

TEST_F(LinkLocalTest, MebibytesGoThroughAChannelBothWays) {
  const std::string path = file("agent.sock");
  HostListener host{path};
  Monitor monitor;
  configure(monitor, R"({"name": "a"})");
  must(monitor.put("/channels/1024", R"({"port": 1024, "uds_path": ")" + path + "\"}"));
  boot_link(monitor, "channel=1024");
  monitor.type("c");
  host.accept();
  monitor.console_until("channel open");
  const std::string bytes = noise(4 << 20);
  EXPECT_TRUE(host.exchange(bytes, bytes.size()) == bytes);
  pause(monitor);
  ASSERT_EQ(::send(host.fd(), "late", 4, MSG_NOSIGNAL), 4);
  resume(monitor);
  EXPECT_EQ(host.exchange("", 4), "late");
  expect_metadata(monitor, "a");  // meanwhile
  host.end_sending();
  EXPECT_TRUE(host.is_at_end());
  monitor.console_until("channel done 4194308");
  EXPECT_EQ(metric(monitor, "mayfly_channels_rx_bytes_total"), "4194308");
  host.close();
  end(monitor);
}

TEST_F(LinkLocalTest, AHostThatGoesOrWasNeverThereIsAReset) {
  const std::string path = file("agent.sock");
  Monitor monitor;
  configure(monitor, R"({"name": "a"})");
  must(monitor.put("/channels/1024", R"({"port": 1024, "uds_path": ")" + path + "\"}"));
  boot_link(monitor, "channel=1024");
  monitor.type("c");
  monitor.console_until("channel reset");
  EXPECT_NE(monitor.log_until("agent.sock").find("cannot be connected to"), std::string::npos);
  expect_metadata(monitor, "a");
  end(monitor);
}

TEST_F(LinkLocalTest, AClonesGuestSeesItsChannelEndAndOpensItsOwn) {
  const std::string path = file("parent.sock");
  HostListener host{path};
  Monitor monitor;
  configure(monitor, R"({"name": "parent"})");
  must(monitor.put("/channels/1024", R"({"port": 1024, "uds_path": ")" + path + "\"}"));
  boot_link(monitor, "channel=1024");
  monitor.type("c");
  host.accept();
  EXPECT_EQ(host.exchange("before", 6), "before");
  pause(monitor);
  must(create(monitor, "one"));
  resume(monitor);
  EXPECT_EQ(host.exchange("after", 5), "after");  // the machine itself keeps its connection
  const std::string own = file("clone.sock");
  HostListener other{own};
  Monitor clone;
  must(clone.put("/mmds", R"({"name": "clone"})"));
  must(load(
      clone, "one.state", "one.mem",
      R"(, "resume_vm": true, "paths": "Named", "channel_overrides": [{"port": 1024, "uds_path": ")" + own + "\"}]"));
  clone.console_until("channel reset");  // it had said nothing
  clone.type("c");
  other.accept();
  EXPECT_EQ(other.exchange("clone", 5), "clone");
  EXPECT_NE(clone.get("/vm/config").body.find("clone.sock"), std::string::npos);
  other.close();
  end(clone);
  end(monitor);
}

TEST_F(LinkLocalTest, BadChannelsAreRefusedEachByItsOwnSentence) {
  Monitor monitor;
  const auto refused = [&](const std::string& port, const std::string& body, const std::string& words) {
    const HttpAnswer answer = monitor.put("/channels/" + port, body);
    EXPECT_EQ(answer.status, 400);
    EXPECT_NE(answer.body.find(words), std::string::npos) << answer.body;
  };
  refused("1024", R"({"port": 1024, "uds_path": "/a"})", "PUT /mmds/config first");
  configure(monitor, "{}");
  refused("80", R"({"port": 80, "uds_path": "/a"})", "another than 80");
  refused("1024", R"({"port": 1025, "uds_path": "/a"})", "they must be the same");
  refused("1024", R"({"port": 1024, "uds_path": ""})", "107 bytes");
  refused("1024", R"({"port": 1024})", "uds_path");
  must(monitor.put("/channels/1024", R"({"port": 1024, "uds_path": "/a"})"));
  EXPECT_NE(monitor.get("/vm/config").body.find(R"("channels":[{"port":1024,"uds_path":"/a","listen":false}])"),
            std::string::npos);
}

TEST_F(LinkLocalTest, ProcessesOfTheHostGetConnectionsOfAChannelThatListens) {
  const std::string path = file("hosts.sock");
  Monitor monitor;
  configure(monitor, R"({"name": "a"})");
  must(monitor.put("/channels/1024", listening(path)));
  EXPECT_EQ(fs::status(path).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  const OwnedFd early = connect_to_channel(path);
  boot_link(monitor, "channel=1024 agent=1");
  EXPECT_EQ(exchange_on(early.get(), "early", 5), "early");
  const OwnedFd second = connect_to_channel(path);  // while the first goes on
  const std::string bytes = noise(1 << 20);
  EXPECT_TRUE(exchange_on(second.get(), bytes, bytes.size()) == bytes);
  EXPECT_EQ(exchange_on(early.get(), "more", 4), "more");
  ::shutdown(second.get(), SHUT_WR);
  EXPECT_TRUE(is_at_end_of(second.get()));
  monitor.console_until("channel done 1048576");
  pause(monitor);
  const OwnedFd third = connect_to_channel(path);
  ASSERT_EQ(::send(third.get(), "late", 4, MSG_NOSIGNAL), 4);
  resume(monitor);
  EXPECT_EQ(exchange_on(third.get(), "", 4), "late");
  (void)connect_to_channel(path);  // gone at once
  EXPECT_EQ(exchange_on(connect_to_channel(path).get(), "after", 5), "after");
  end(monitor);
  EXPECT_FALSE(fs::exists(path));
}

TEST_F(LinkLocalTest, ACloneListensAtItsOwnSocketAndItsAgentsRedial) {
  const std::string path = file("parent.sock");
  Monitor monitor;
  configure(monitor, R"({"name": "parent"})");
  must(monitor.put("/channels/1024", listening(path)));
  boot_link(monitor, "channel=1024 agent=1");
  const OwnedFd host = connect_to_channel(path);
  EXPECT_EQ(exchange_on(host.get(), "before", 6), "before");
  pause(monitor);
  must(create(monitor, "one"));
  resume(monitor);
  EXPECT_EQ(exchange_on(host.get(), "after", 5), "after");
  Monitor refused;
  const HttpAnswer answer = load(refused, "one.state", "one.mem");
  EXPECT_EQ(answer.status, 400);
  EXPECT_NE(answer.body.find("channel 1024: cannot make its socket"), std::string::npos) << answer.body;
  EXPECT_NE(answer.body.find("channel_overrides"), std::string::npos) << answer.body;
  const std::string own = file("clone.sock");
  Monitor clone;
  must(load(
      clone, "one.state", "one.mem",
      R"(, "resume_vm": true, "revertible": true, "channel_overrides": [{"port": 1024, "uds_path": ")" + own + "\"}]"));
  clone.console_until("channel reset");
  const OwnedFd other = connect_to_channel(own);
  EXPECT_EQ(exchange_on(other.get(), "clone", 5), "clone");
  EXPECT_NE(clone.get("/vm/config").body.find(R"(clone.sock","listen":true)"), std::string::npos);
  must(clone.put("/snapshot/revert", R"({"resume_vm": true})"));
  EXPECT_TRUE(is_at_end_of(other.get()));
  EXPECT_EQ(exchange_on(connect_to_channel(own).get(), "reverted", 8), "reverted");
  end(clone);
  EXPECT_FALSE(fs::exists(own));
  end(monitor);
}

TEST_F(LinkLocalTest, AChannelsSocketThatCannotBeMadeIsRefusedAtOnce) {
  const std::string path = file("taken.sock");
  const HostListener other{path};
  Monitor monitor;
  configure(monitor, "{}");
  const HttpAnswer answer = monitor.put("/channels/1024", listening(path));
  EXPECT_EQ(answer.status, 400);
  EXPECT_NE(answer.body.find("another process is listening there"), std::string::npos) << answer.body;
  EXPECT_EQ(monitor.get("/vm/config").body.find("channels"), std::string::npos);
}

TEST_F(LinkLocalTest, AnInterfaceWithoutATapServesMetadata) {
  Monitor monitor;
  configure(monitor, R"({"name": "first"})");
  boot_link(monitor);
  expect_metadata(monitor, "first");
  const std::string config = monitor.get("/vm/config").body;
  EXPECT_NE(config.find(R"("iface_id":"eth0")"), std::string::npos) << config;
  EXPECT_EQ(config.find("host_dev_name"), std::string::npos) << config;
  must(monitor.put("/mmds", R"({"name": "second"})"));
  expect_metadata(monitor, "second");
  pause(monitor);
  resume(monitor);
  expect_metadata(monitor, "second");
  end(monitor);
}

TEST_F(LinkLocalTest, FramesForTheNetworkAreDroppedAndCounted) {
  Monitor monitor;
  configure(monitor, R"({"name": "a"})");
  boot_link(monitor);
  for (int i = 0; i < 3; ++i) monitor.type("p");
  expect_metadata(monitor, "a");  // behind them, in the same queue
  EXPECT_EQ(metric(monitor, "mayfly_net_tx_no_tap_count_total"), "3") << monitor.get("/metrics/prometheus").body;
  end(monitor);
}

TEST_F(LinkLocalTest, ACloneHasNoTapEitherAndIsToldItsOwnMetadata) {
  {
    Monitor monitor;
    configure(monitor, R"({"name": "parent"})");
    boot_link(monitor);
    expect_metadata(monitor, "parent");
    pause(monitor);
    must(create(monitor, "one"));
  }
  for (const char* paths : {R"(, "paths": "Named")", ""}) {
    Monitor clone;
    must(clone.put("/mmds", R"({"name": "clone"})"));
    must(load(clone, "one.state", "one.mem", R"(, "resume_vm": true)" + std::string{paths}));
    expect_metadata(clone, "clone");
    EXPECT_EQ(clone.get("/vm/config").body.find("host_dev_name"), std::string::npos);
    end(clone);
  }
}

}  // namespace
}  // namespace mayfly::testing
