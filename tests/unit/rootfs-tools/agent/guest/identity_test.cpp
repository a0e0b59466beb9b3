#include "rootfs-tools/agent/guest/identity.h"

#include "vmm/base/owned_fd.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <array>
#include <map>
#include <string>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly::agent {
namespace {

/// Answers on one connection: what it has for a path, or 404.
class FakeMetadata {
 public:
  explicit FakeMetadata(std::map<std::string, std::string> values, std::string_view head = "HTTP/1.1")
      : values_(std::move(values)), head_(head), listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address_;
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
    EXPECT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address_), &length), 0);
    thread_ = std::thread{[this] { serve(); }};
  }
  FakeMetadata(const FakeMetadata&) = delete;
  FakeMetadata& operator=(const FakeMetadata&) = delete;
  ~FakeMetadata() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  [[nodiscard]] const sockaddr_in& address() const { return address_; }

 private:
  void serve() {
    const OwnedFd client{::accept(listener_.get(), nullptr, nullptr)};
    std::string text;
    std::array<char, 1024> piece;
    for (ssize_t count = 0; (count = ::recv(client.get(), piece.data(), piece.size(), 0)) > 0;) {
      text.append(piece.data(), static_cast<std::size_t>(count));
      for (std::size_t end = 0; (end = text.find("\r\n\r\n")) != std::string::npos; text.erase(0, end + 4))
        answer(client, text.substr(0, end));
    }
  }
  void answer(const OwnedFd& client, const std::string& request) const {
    const std::string path = request.substr(request.find(' ') + 1, request.find(" HTTP") - request.find(' ') - 1);
    const bool has_token = request.find("X-metadata-token: secret") != std::string::npos;
    const auto found = values_.find(path);
    const bool ok = found != values_.end() && (has_token || path == "/latest/api/token");
    const std::string body = ok ? found->second : "There is none.";
    const std::string whole = head_ + (ok ? " 200 OK" : " 404 Not Found") +
                              "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    (void)::send(client.get(), whole.data(), whole.size(), MSG_NOSIGNAL);
  }

  const std::map<std::string, std::string> values_;
  const std::string head_;
  OwnedFd listener_;
  sockaddr_in address_{};
  std::thread thread_;
};

constexpr std::chrono::milliseconds kPatience{20'000};

TEST(GuestIdentity, IsAskedForWithAToken) {
  const FakeMetadata metadata{{{"/latest/api/token", "secret"},
                               {"/mayfly", "hostname\naddress"},
                               {"/mayfly/hostname", "vm-7"},
                               {"/mayfly/address", "10.1.2.3/20"},
                               {"/mayfly/gateway", "10.1.0.1"},
                               {"/mayfly/nameserver", "10.1.0.2"}}};
  const auto identity = fetch_identity(metadata.address(), kPatience);
  ASSERT_TRUE(identity) << identity.error().message;
  ASSERT_TRUE(*identity);
  EXPECT_EQ((*identity)->hostname, "vm-7");
  EXPECT_EQ((*identity)->address->address.s_addr, htonl(0x0A010203));
  EXPECT_EQ((*identity)->address->mask.s_addr, htonl(0xFFFFF000));
  EXPECT_EQ((*identity)->gateway->s_addr, htonl(0x0A010001));
  EXPECT_EQ((*identity)->nameserver, "10.1.0.2");
}

TEST(GuestIdentity, IsNoneWhereTheHostSaysNothing) {
  const FakeMetadata metadata{{{"/latest/api/token", "secret"}}};
  const auto identity = fetch_identity(metadata.address(), kPatience);
  ASSERT_TRUE(identity) << identity.error().message;
  EXPECT_FALSE(*identity);
  sockaddr_in nobody{};
  nobody.sin_family = AF_INET;
  nobody.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  nobody.sin_port = htons(1);
  EXPECT_FALSE(fetch_identity(nobody, kPatience).value());
}

TEST(GuestIdentity, IsUnknownWhereTheServiceIsTooBusyToAnswer) {
  const OwnedFd listener{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  const auto refusal = [&address] {
    const auto identity = fetch_identity(address, std::chrono::milliseconds{50});
    return identity ? "" : identity.error().message;
  };
  EXPECT_EQ(refusal(), "the metadata service gives no answer that is HTTP")
      << "nobody accepts it, and the queue is full";
  EXPECT_EQ(refusal(), "the metadata service cannot be reached: Connection timed out (ETIMEDOUT)");
}

TEST(GuestIdentity, RefusesWhatIsNoIdentity) {
  for (const auto& [field, value] : {std::pair{"hostname", "-x"},
                                     {"hostname", "a b"},
                                     {"address", "10.0.0.1"},
                                     {"gateway", "x"},
                                     {"nameserver", "::1"}}) {
    const std::string path = std::string{"/mayfly/"} + field;
    const FakeMetadata metadata{{{"/latest/api/token", "secret"}, {"/mayfly", field}, {path, value}}};
    const auto identity = fetch_identity(metadata.address(), kPatience);
    ASSERT_FALSE(identity) << field;
    EXPECT_NE(identity.error().message.find(std::string{"mayfly/"} + field), std::string::npos);
  }
  const FakeMetadata other{{{"/latest/api/token", "secret"}}, "SSH-2.0"};
  EXPECT_FALSE(fetch_identity(other.address(), kPatience));
}

TEST(GuestIdentity, AddressesHaveALength) {
  EXPECT_EQ(parse_guest_address("1.2.3.4/32")->mask.s_addr, htonl(0xFFFFFFFF));
  EXPECT_EQ(parse_guest_address("1.2.3.4/1")->mask.s_addr, htonl(0x80000000));
  for (const char* const text : {"", "/", "1.2.3.4", "1.2.3.4/0", "1.2.3.4/33", "1.2.3/8", "1.2.3.4/x"})
    EXPECT_FALSE(parse_guest_address(text)) << text;
}

TEST(GuestIdentity, ItsNameIsAmongTheHosts) {
  EXPECT_EQ(hosts_with("vm-7", "mayfly", "127.0.0.1 localhost\n127.0.1.1 mayfly\n10.0.0.1 db"),
            "127.0.0.1 localhost\n10.0.0.1 db\n127.0.1.1 vm-7\n");
  for (const std::string others : {"127.0.1.1 db.local\n", "127.0.1.1 mayfly db.local\n", "127.0.1.10 mayfly\n"})
    EXPECT_EQ(hosts_with("vm-7", "mayfly", others), others + "127.0.1.1 vm-7\n");
  EXPECT_EQ(hosts_with("vm-7", "mayfly", ""), "127.0.1.1 vm-7\n");
}

}  // namespace
}  // namespace mayfly::agent
