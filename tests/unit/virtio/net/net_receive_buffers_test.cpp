#include "virtio/net/net_receive_buffers.h"

#include "tests/support/repeats.h"
#include "tests/unit/virtio/fake_driver.h"

#include <algorithm>
#include <deque>
#include <random>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::FakeBuffer;
using testing::FakeMemory;
using testing::FakeQueue;

/// What a driver has offered, in its order, until the device returns it.
struct Offered {
  std::uint16_t head;
  std::vector<iovec> segments;
  std::uint64_t length;
};

class NetReceiveBuffersTest : public ::testing::Test {
 protected:
  NetReceiveBuffersTest() { driver_.enable(queue_); }
  ~NetReceiveBuffersTest() override { buffers_.abandon(); }

  void offer(std::size_t segments, std::uint32_t length) {
    std::vector<FakeBuffer> pieces;
    Offered offered{.head = 0, .segments = {}, .length = segments * length};
    for (std::size_t i = 0; i < segments; ++i) {
      pieces.push_back({slab_, length, true});
      offered.segments.push_back({ram_.bytes(slab_, length).data(), length});
      slab_.value += length;
      if (slab_.value > slab_end_.value - 65536) slab_ = slab_begin_;  // addresses may come again
    }
    offered.head = driver_.offer(pieces);
    offered_.push_back(offered);
  }

  std::span<const ReceiveWindow> arrange(std::size_t wanted, bool mergeable = true) {
    const auto windows = buffers_.arrange(queue_, wanted, mergeable);
    if (!windows) throw std::runtime_error(std::string{windows.error().what});
    return *windows;
  }

  /// Each window is whole chains, in the driver's order; the first begins with the oldest. Their chains, by window.
  std::vector<std::vector<Offered>> check(std::span<const ReceiveWindow> windows) {
    std::vector<std::vector<Offered>> chains;
    auto next = offered_.begin();
    for (const ReceiveWindow& window : windows) {
      std::vector<Offered>& mine = chains.emplace_back();
      std::uint64_t capacity = 0;
      for (std::size_t at = 0; at < window.buffers().size(); ++next) {
        if (next == offered_.end()) throw std::runtime_error("a window has more than was offered");
        for (const iovec& segment : next->segments) {
          EXPECT_EQ(window.buffers()[at].iov_base, segment.iov_base);
          EXPECT_EQ(window.buffers()[at].iov_len, segment.iov_len);
          ++at;
        }
        capacity += next->length;
        mine.push_back(*next);
      }
      EXPECT_EQ(window.capacity, capacity);
      EXPECT_EQ(window.vectors.size(), window.buffers().size() + 1);
    }
    return chains;
  }

  /// Fills `length` bytes of a window, and looks at what the driver gets.
  void use(const ReceiveWindow& window, const std::vector<Offered>& chains, std::uint64_t length) {
    EXPECT_LE(buffers_.chains_for(window, length), chains.size());
    const std::size_t count = buffers_.chains_for(window, length);
    buffers_.use(window, queue_, length);
    (void)queue_.publish();
    std::uint64_t left = length;
    for (std::size_t i = 0; i < count; ++i) {
      const auto used = driver_.next_used();
      ASSERT_TRUE(used);
      EXPECT_EQ(used->id, chains[i].head);
      EXPECT_EQ(used->length, std::min(left, chains[i].length));
      left -= used->length;
      std::erase_if(offered_, [&](const Offered& each) { return each.head == chains[i].head; });
    }
    EXPECT_EQ(left, 0U);
    EXPECT_FALSE(driver_.next_used());
  }

  FakeMemory ram_{32};
  FakeQueue driver_{ram_, 256};
  VirtQueue queue_{ram_.memory(), 256};
  GuestAddress slab_begin_ = ram_.room(8 << 20);
  GuestAddress slab_end_{slab_begin_.value + (8 << 20)};
  GuestAddress slab_ = slab_begin_;
  std::deque<Offered> offered_;
  NetReceiveBuffers buffers_;
};

TEST_F(NetReceiveBuffersTest, TakesNoMoreThanItsWindowsNeed) {
  for (int i = 0; i < 100; ++i) offer(1, 4096);
  const auto windows = arrange(1);
  ASSERT_EQ(windows.size(), 1U);
  EXPECT_FALSE(windows[0].narrow);
  EXPECT_EQ(buffers_.heads().size(), 17U);  // 65562 bytes
}

TEST_F(NetReceiveBuffersTest, AShortWindowHasOneBufferAndAFullOneBeginsWithTheSame) {
  for (int i = 0; i < 100; ++i) offer(1, 1536);
  const auto windows = buffers_.arrange(queue_, 1, true, NetReceiveBuffers::kShortWindow);
  ASSERT_TRUE(windows);
  ASSERT_EQ(windows->size(), 1U);
  EXPECT_TRUE((*windows)[0].narrow) << "a longer frame ends in the spill";
  EXPECT_EQ((*windows)[0].vectors.back().iov_base, buffers_.spill().data());
  EXPECT_EQ(buffers_.heads().size(), 1U);
  const auto chains = check(*windows);
  const auto full = arrange(1);
  EXPECT_EQ(full[0].buffers().front().iov_base, chains[0][0].segments[0].iov_base);
  EXPECT_FALSE(full[0].narrow);
  EXPECT_EQ(buffers_.heads().size(), 43U);
  check(full);
}

TEST_F(NetReceiveBuffersTest, AShortWindowOfSmallBuffersHasAsManyAsAUsualFrameNeeds) {
  for (int i = 0; i < 100; ++i) offer(1, 500);
  const auto windows = buffers_.arrange(queue_, 1, true, NetReceiveBuffers::kShortWindow);
  ASSERT_TRUE(windows);
  ASSERT_EQ(windows->size(), 1U);
  EXPECT_EQ((*windows)[0].capacity, 2000U);
  check(*windows);
}

TEST_F(NetReceiveBuffersTest, AWindowThatWasUsedBeforeAnotherLeavesItsBuffersForTheNext) {
  for (int i = 0; i < 100; ++i) offer(1, 4096);
  const auto windows = arrange(3);
  ASSERT_EQ(windows.size(), 3U);
  const auto chains = check(windows);
  use(windows[1], chains[1], 5000);
  use(windows[2], chains[2], 65'000);
  EXPECT_EQ(buffers_.heads().size(), 3U * 17 - 2 - 16);
  check(arrange(3));
}

TEST_F(NetReceiveBuffersTest, ANarrowWindowIsGivenOnlyWhereThereIsNoOther) {
  offer(1, 4096);
  offer(2, 100);
  auto windows = arrange(2);
  ASSERT_EQ(windows.size(), 1U);
  EXPECT_TRUE(windows[0].narrow);
  EXPECT_EQ(windows[0].capacity, 4296U);
  for (int i = 0; i < 20; ++i) offer(1, 4096);
  windows = arrange(2);
  ASSERT_EQ(windows.size(), 1U);
  EXPECT_FALSE(windows[0].narrow);
  check(windows);
}

TEST_F(NetReceiveBuffersTest, WithoutMergingEachChainIsAWindow) {
  for (int i = 0; i < 20; ++i) offer(3, 30'000);
  const auto windows = arrange(16, false);
  ASSERT_EQ(windows.size(), 16U);
  const auto chains = check(windows);
  use(windows[15], chains[15], 90'000);
  use(windows[0], chains[0], 1);
}

TEST_F(NetReceiveBuffersTest, BuffersOfASnapshotComeFirst) {
  for (int i = 0; i < 40; ++i) offer(1, 4096);
  (void)arrange(1);
  const std::vector<std::uint16_t> heads = buffers_.heads();
  buffers_.restore(heads);
  EXPECT_EQ(buffers_.heads(), heads);
  check(arrange(2));
}

TEST_F(NetReceiveBuffersTest, HoldsAQueuesWorthAndOneMoreIsAFault) {
  for (int i = 0; i < 256; ++i) offer(1, 12);
  (void)arrange(1);
  EXPECT_EQ(buffers_.heads().size(), 256U);
  EXPECT_TRUE(arrange(1)[0].narrow) << "as long as no more are offered, what is there is served";
  driver_.offer_head(0);  // which the driver does not own
  EXPECT_FALSE(buffers_.arrange(queue_, 1, true));
  EXPECT_EQ(buffers_.heads().size(), 256U) << "a snapshot takes no more";
}

TEST_F(NetReceiveBuffersTest, BuffersThatWereUsedMakeRoomForAsManyMore) {
  for (int i = 0; i < 256; ++i) offer(1, 1536);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 256; ++i) {
      const auto windows = arrange(1);
      const auto chains = check(windows);
      use(windows[0], chains[0], 1000);
      offer(1, 1536);
    }
  }
  EXPECT_LE(buffers_.heads().size(), 256U);
}

TEST_F(NetReceiveBuffersTest, OfASnapshotsBuffersAndMoreAQueuesWorthIsHeld) {
  for (int i = 0; i < 256; ++i) offer(1, 12);
  (void)arrange(1);
  buffers_.restore(buffers_.heads());
  (void)arrange(1);
  EXPECT_EQ(buffers_.heads().size(), 256U);
  driver_.offer_head(0);
  EXPECT_FALSE(buffers_.arrange(queue_, 1, true));
  EXPECT_EQ(buffers_.heads().size(), 256U);
}

/// Many rounds of all kinds against the plain list of what is offered.
TEST_F(NetReceiveBuffersTest, AlwaysHoldsWhatWasOfferedAndNotUsed) {
  std::mt19937 random{5};
  const auto below = [&](std::size_t bound) { return random() % bound; };
  std::size_t free = 256;
  for (int round = 0; round < testing::repeats(3000, 1000); ++round) {
    for (std::size_t more = below(60); more > 0; --more) {
      const std::size_t segments = 1 + (below(4) == 0 ? below(19) : 0);
      if (segments > free) break;
      free -= segments;
      offer(segments, static_cast<std::uint32_t>(12 + below(5000)));
    }
    const auto windows = arrange(1 + below(16));
    const auto chains = check(windows);
    if (::testing::Test::HasFailure()) FAIL() << "round " << round;
    std::vector<std::size_t> order(windows.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::ranges::shuffle(order, random);
    for (const std::size_t each : order) {
      if (below(3) == 0) continue;
      const std::uint64_t length = 1 + below(windows[each].capacity);
      std::uint64_t left = length;
      for (std::size_t i = 0; left > 0; ++i) {
        free += chains[each][i].segments.size();
        left -= std::min(left, chains[each][i].length);
      }
      use(windows[each], chains[each], length);
    }
  }
}

}  // namespace
}  // namespace mayfly
