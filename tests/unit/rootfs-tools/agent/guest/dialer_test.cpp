#include "rootfs-tools/agent/guest/dialer.h"

#include <arpa/inet.h>

#include <string>

#include <gtest/gtest.h>

namespace mayfly::agent {
namespace {

TEST(Backoff, IsNoneAtFirstAndBounded) {
  Backoff backoff;
  std::string waits;
  for (int i = 0; i < 10; ++i) waits += std::to_string(backoff.next().count()) + ' ';
  EXPECT_EQ(waits, "0 10 20 40 80 160 320 640 1000 1000 ");
  backoff.reset();
  EXPECT_EQ(backoff.next().count(), 0);
}

TEST(AgentAddress, IsAnAddressAndAPort) {
  const auto address = parse_address("169.254.169.254:1024").value();
  EXPECT_EQ(ntohs(address.sin_port), 1024);
  EXPECT_EQ(ntohl(address.sin_addr.s_addr), 0xA9FEA9FEU);
  for (const char* const text :
       {"", ":", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "host:1", ":1", "1.2.3:1", "::1:1"})
    EXPECT_TRUE(parse_address(text).error().message.contains("must be like")) << text;
}

}  // namespace
}  // namespace mayfly::agent
