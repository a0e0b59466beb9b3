// Metadata and their tokens, on every way that they take and every way that they are refused: none of it is logged.

#include "tests/integration/kvm_required.h"
#include "tests/support/monitor.h"
#include "tests/support/tap_network.h"
#include "tests/unit/virtio/mmds/fake_guest.h"

#include <csignal>
#include <optional>

namespace mayfly::testing {
namespace {

/// Whatever is cut off, something of it is left.
const std::string kSecret = "hunter2hunter2hunter2";
const std::string kPartOfIt = "hunter2";

Frame answer_to(Frame frame) {
  for (std::size_t i = 0; i < 6; ++i) std::swap(frame.at(i), frame.at(6 + i));
  return frame;
}

class SecretsTest : public KvmTest {
 protected:
  void SetUp() override {
    KvmTest::SetUp();
    if (IsSkipped()) return;
    if (const auto why = enter_fresh_network()) GTEST_SKIP() << *why;
    tap_.emplace("tap0");
    monitor_.emplace(std::vector<std::string>{"--level", "Trace", "--show-log-origin", "--mmds-size-limit", "2000"});
  }
  void boot() {
    must(monitor_->put("/network-interfaces/eth0", R"({"iface_id": "eth0", "guest_mac": "06:00:ac:10:00:02",
                                                       "host_dev_name": "tap0"})"));
    await_running("tap0");
    must(monitor_->put("/mmds/config", R"({"network_interfaces": ["eth0"], "version": "V2"})"));
    monitor_->boot("net", "console=ttyS0 mac=0x0600ac100002");
    monitor_->console_until("GUEST READY");
  }
  static void must(const HttpAnswer& answer) { ASSERT_EQ(answer.status, 204) << answer.body; }
  void expect_refused(const std::string& method, const std::string& body, int status = 400) {
    EXPECT_EQ(monitor_->send(method, "/mmds", body).status, status) << body;
  }

  /// What the service answers the guest, up to the end of the connection. The guest sends back whatever comes, so a
  /// request that is made here is the guest's, and the answer comes out of it again.
  std::string ask(const std::string& request_line, const std::string& field) {
    TcpClient client{++port_};
    const auto give = [this](const std::vector<Frame>& frames) {
      for (const Frame& frame : frames) tap_->send(answer_to(frame));
    };
    give(client.resend());
    give(client.send(request_line + " HTTP/1.1\r\nConnection: close\r\n" + field + "\r\n\r\n"));
    while (!client.saw_end()) {
      const auto segment = read_service_segment(answer_to(tap_->receive()));
      if (segment && segment->destination_port == client.port()) give(client.take(*segment));
    }
    give(client.finish());
    return client.received();
  }
  static std::string body_of(const std::string& answer) { return answer.substr(answer.find("\r\n\r\n") + 4); }

  std::string whole_log() {
    monitor_->signal(SIGTERM);
    return monitor_->log_until("");
  }

  std::optional<TapInterface> tap_;
  std::optional<Monitor> monitor_;

 private:
  std::uint16_t port_ = 40'000;
};

TEST_F(SecretsTest, OfTheHostAreNotLogged) {
  boot();
  must(monitor_->put("/mmds", R"({"key": ")" + kSecret + "\"}"));
  must(monitor_->patch("/mmds", R"({"more": ")" + kSecret + "\"}"));
  EXPECT_NE(monitor_->get("/mmds").body.find(kSecret), std::string::npos);
  for (const std::string method : {"PUT", "PATCH"}) {
    expect_refused(method, "\"" + kSecret + "\"");
    expect_refused(method, "[\"" + kSecret + "\"]");
    expect_refused(method, R"({"key": ")" + kSecret);
    expect_refused(method, R"({"key": )" + kSecret + "}");
    expect_refused(method, R"({"key": ")" + kSecret + std::string(3'000, 'x') + "\"}", 413);
  }
  const std::string log = whole_log();
  EXPECT_NE(log.find("mmds must be a JSON object"), std::string::npos) << log;
  EXPECT_NE(log.find("PUT /mmds refused: metadata may have"), std::string::npos) << log;
  EXPECT_EQ(log.find(kPartOfIt), std::string::npos) << log;
}

TEST_F(SecretsTest, OfTheGuestAreNotLogged) {
  boot();
  must(monitor_->put("/mmds", R"({"key": ")" + kSecret + "\"}"));
  const std::string token = body_of(ask("PUT /latest/api/token", "X-metadata-token-ttl-seconds: 60"));
  ASSERT_EQ(token.size(), 48u) << token;
  EXPECT_EQ(body_of(ask("GET /key", "X-metadata-token: " + token)), kSecret);
  // Refused, each in its way.
  const std::string field = "X-metadata-token: " + token;
  EXPECT_TRUE(ask("GET /key", field + kSecret).starts_with("HTTP/1.1 401"));
  EXPECT_TRUE(ask("GET /" + kSecret + token, field).starts_with("HTTP/1.1 404"));
  EXPECT_TRUE(ask("POST /key", field).starts_with("HTTP/1.1 405"));
  EXPECT_TRUE(ask("GET key", field).starts_with("HTTP/1.1 400"));
  const std::string log = whole_log();
  EXPECT_NE(log.find(":INFO:"), std::string::npos) << log;
  EXPECT_EQ(log.find(token.substr(16, 16)), std::string::npos) << log;
  EXPECT_EQ(log.find(kPartOfIt), std::string::npos) << log;
}

}  // namespace
}  // namespace mayfly::testing
