#include "virtio/net/tap.h"

#include "tests/unit/virtio/net/tap_namespace.h"

#include <fcntl.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::TapNamespace;

std::string error_of(const std::string& name) {
  auto tap = Tap::open(name);
  return tap ? "none" : tap.error().message;
}
bool mentions(const std::string& text, const std::string& what) { return text.find(what) != std::string::npos; }

TEST(Tap, ANameThatNoInterfaceCanHaveIsRefusedWithTheReason) {
  EXPECT_TRUE(mentions(error_of(""), "empty"));
  EXPECT_TRUE(mentions(error_of("a-name-of-16-bytes"), "at most 15"));
  for (const char* name : {"a b", "a/b", "a:b", "tap%d", "a\tb", ".", ".."})
    EXPECT_TRUE(mentions(error_of(name), "none that an interface can have")) << name;
}

TEST(Tap, AnInterfaceThatIsMissingIsNotMadeButExplained) {
  const std::string message = error_of("nosuchtap0");
  EXPECT_TRUE(mentions(message, "\"nosuchtap0\"")) << message;
  EXPECT_TRUE(mentions(message, "ip tuntap add dev nosuchtap0 mode tap")) << message;
  EXPECT_EQ(::if_nametoindex("nosuchtap0"), 0u);
}

TEST(Tap, AnAdoptedDescriptorIsClosedOnce) {
  int pair[2] = {};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  const OwnedFd other{pair[1]};
  {
    Tap tap = Tap::adopt(OwnedFd{pair[0]}, "fake");
    const Tap moved = std::move(tap);
    EXPECT_EQ(moved.fd(), pair[0]);
    EXPECT_EQ(moved.name(), "fake");
  }
  EXPECT_EQ(::fcntl(pair[0], F_GETFD), -1);
}

/// On real TAPs, in a namespace of the test's own.
class RealTap : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string missing = space_.enter(); !missing.empty()) GTEST_SKIP() << missing;
  }
  TapNamespace space_;
};

TEST_F(RealTap, OneThatExistsIsAttachedTo) {
  space_.add_tap("tap0");
  auto tap = Tap::open("tap0");
  ASSERT_TRUE(tap) << tap.error().message;
  EXPECT_EQ(tap->name(), "tap0");
  EXPECT_GE(tap->fd(), 0);
  EXPECT_TRUE(::fcntl(tap->fd(), F_GETFD) & FD_CLOEXEC);
}

TEST_F(RealTap, OneOfManyQueuesIsAttachedTo) {
  space_.add_tap("tap0", {.many_queues = true});
  auto tap = Tap::open("tap0");
  ASSERT_TRUE(tap) << tap.error().message;
}

TEST_F(RealTap, OneThatIsInUseIsRefused) {
  space_.add_tap("tap0");
  auto first = Tap::open("tap0");
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_TRUE(mentions(error_of("tap0"), "in use")) << error_of("tap0");
}

TEST_F(RealTap, WhatIsNoTapIsRefused) {
  EXPECT_TRUE(mentions(error_of("lo"), "is not a TAP")) << error_of("lo");
  space_.add_tap("tun0", {.is_tun = true});
  EXPECT_TRUE(mentions(error_of("tun0"), "is not a TAP")) << error_of("tun0");
}

TEST_F(RealTap, OneOfAnotherUserIsRefused) {
  space_.add_tap("tap0", {.owner = 12345});
  const std::string message = TapNamespace::without_rights([] { return error_of("tap0"); });
  EXPECT_TRUE(mentions(message, "another user") || mentions(message, "let this user")) << message;
}

TEST_F(RealTap, OffloadsAreSetAndSetAgain) {
  space_.add_tap("tap0");
  auto tap = Tap::open("tap0");
  ASSERT_TRUE(tap) << tap.error().message;
  for (const bool uso : {false, true})
    for (const bool tso : {false, true})
      for (const bool checksum : {false, true})
        EXPECT_TRUE(tap->set_offloads({.checksum = checksum, .tso4 = tso, .tso6 = tso, .ecn = true, .uso = uso}));
}

TEST_F(RealTap, OneThatIsGoneRefusesOffloads) {
  space_.add_tap("tap0");
  auto tap = Tap::open("tap0");
  ASSERT_TRUE(tap) << tap.error().message;
  space_.remove("tap0");
  EXPECT_FALSE(tap->set_offloads({}));
}

}  // namespace
}  // namespace mayfly
