// What a guest reaches inside its network interface (the bare-metal guest `link_local`), without a TAP, so without root's
// rights and in any network namespace.

#include "tests/integration/snapshot_fixture.h"

#include <string>

namespace mayfly::testing {
namespace {

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
