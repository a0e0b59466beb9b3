#include "virtio/queue.h"

#include "tests/unit/virtio/fake_driver.h"

#include <map>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::FakeBuffer;
using testing::FakeMemory;
using testing::FakeQueue;

constexpr std::uint16_t kSize = 8;

class VirtQueueTest : public ::testing::Test {
 protected:
  VirtQueueTest() { driver_.enable(queue_); }

  /// The next chain, which must be there.
  Chain take() {
    auto taken = queue_.take(storage_);
    if (!taken) throw std::runtime_error(std::string{taken.error().what});
    return std::move(taken->value());
  }
  /// What is wrong with what the driver offers; empty where nothing is.
  std::string fault() {
    auto taken = queue_.take(storage_);
    if (!taken) return std::string{taken.error().what};
    if (*taken) queue_.put(std::move(**taken), 0);
    return {};
  }

  FakeMemory ram_;
  FakeQueue driver_{ram_, kSize};
  VirtQueue queue_{ram_.memory(), 256};
  VirtQueue::Storage storage_{};
};

TEST_F(VirtQueueTest, GivesTheDriversBuffersInTheirOrder) {
  const GuestAddress first = ram_.room(10);
  const GuestAddress second = ram_.room(20);
  const GuestAddress third = ram_.room(30);
  const std::uint16_t head = driver_.offer({{first, 10, false}, {second, 20, true}, {third, 30, true}});

  Chain chain = take();

  EXPECT_EQ(chain.head(), head);
  ASSERT_EQ(chain.readable().size(), 1U);
  ASSERT_EQ(chain.writable().size(), 2U);
  EXPECT_EQ(chain.readable()[0].iov_base, ram_.bytes(first, 10).data());
  EXPECT_EQ(chain.readable()[0].iov_len, 10U);
  EXPECT_EQ(chain.writable()[1].iov_base, ram_.bytes(third, 30).data());
  EXPECT_EQ(chain.readable_length(), 10U);
  EXPECT_EQ(chain.writable_length(), 50U);
  queue_.put(std::move(chain), 50);
}

TEST_F(VirtQueueTest, TakesIndirectChains) {
  driver_.offer_indirect({{ram_.room(4), 4, false}, {ram_.room(5), 5, true}});
  Chain chain = take();
  EXPECT_EQ(chain.readable_length(), 4U);
  EXPECT_EQ(chain.writable_length(), 5U);
  queue_.put(std::move(chain), 0);
}

TEST_F(VirtQueueTest, SkipsEmptyBuffers) {
  const GuestAddress at = ram_.room(8);
  driver_.offer({{at, 0, false}, {at, 4, false}, {at, 0, true}, {at, 4, true}});
  Chain chain = take();
  EXPECT_EQ(chain.readable().size(), 1U);
  EXPECT_EQ(chain.writable().size(), 1U);
  queue_.put(std::move(chain), 0);
}

TEST_F(VirtQueueTest, IsEmptyUntilTheDriverOffers) {
  EXPECT_FALSE(queue_.has_more());
  EXPECT_FALSE(queue_.take(storage_).value().has_value());
  driver_.offer({{ram_.room(1), 1, false}});
  EXPECT_TRUE(queue_.has_more());
}

TEST_F(VirtQueueTest, TheDriverSeesNothingBeforeThePublication) {
  driver_.offer({{ram_.room(4), 4, true}});
  queue_.put(take(), 3);
  EXPECT_FALSE(driver_.next_used());
  EXPECT_TRUE(queue_.publish());
  EXPECT_EQ(driver_.next_used()->length, 3U);
  EXPECT_FALSE(queue_.publish()) << "nothing new";
}

TEST_F(VirtQueueTest, AnUntakenChainComesAgain) {
  const std::uint16_t head = driver_.offer({{ram_.room(4), 4, true}});
  queue_.put_back(take());
  EXPECT_TRUE(queue_.has_more());
  Chain again = take();
  EXPECT_EQ(again.head(), head);
  queue_.put(std::move(again), 0);
}

TEST_F(VirtQueueTest, ADriverThatPollsIsNotInterrupted) {
  driver_.available_flags() = ring_abi::kNoInterrupt;
  driver_.offer({{ram_.room(4), 4, true}});
  queue_.put(take(), 0);
  EXPECT_FALSE(queue_.publish());
  EXPECT_TRUE(driver_.next_used());
}

TEST_F(VirtQueueTest, WithEventIndicesItInterruptsWhereTheDriverWaits) {
  driver_.enable(queue_, true);
  driver_.used_event() = 1;  // wants to hear of the second
  driver_.offer({{ram_.room(4), 4, true}});
  queue_.put(take(), 0);
  EXPECT_FALSE(queue_.publish());
  driver_.offer({{ram_.room(4), 4, true}});
  queue_.put(take(), 0);
  EXPECT_TRUE(queue_.publish());
  driver_.offer({{ram_.room(4), 4, true}});
  queue_.put(take(), 0);
  EXPECT_FALSE(queue_.publish()) << "the driver has not moved its event on";
}

TEST_F(VirtQueueTest, WithEventIndicesItAsksForAKickOnlyWhenItFindsNothing) {
  driver_.enable(queue_, true);
  EXPECT_EQ(driver_.available_event(), 0U);
  driver_.offer({{ram_.room(4), 4, true}});
  driver_.offer({{ram_.room(4), 4, true}});
  queue_.put(take(), 0);
  queue_.put(take(), 0);
  EXPECT_EQ(driver_.available_event(), 0U) << "busy: no kick is wanted";
  EXPECT_FALSE(queue_.take(storage_).value().has_value());
  EXPECT_EQ(driver_.available_event(), 2U);
}

TEST_F(VirtQueueTest, IndicesWrapAround) {
  const GuestAddress at = ram_.room(4);
  for (int i = 0; i < 70'000; ++i) {
    driver_.offer({{at, 4, true}});
    queue_.put(take(), static_cast<std::uint32_t>(i));
    ASSERT_TRUE(queue_.publish());
    ASSERT_EQ(driver_.next_used()->length, static_cast<std::uint32_t>(i));
  }
}

// --- Hostile drivers -------------------------------------------------------------------------------------------------

TEST_F(VirtQueueTest, RefusesALoop) {
  const GuestAddress at = ram_.room(4);
  driver_.descriptor(0) = {.address = at.value, .length = 4, .flags = ring_abi::kNext, .next = 1};
  driver_.descriptor(1) = {.address = at.value, .length = 4, .flags = ring_abi::kNext, .next = 0};
  driver_.offer_head(0);
  EXPECT_EQ(fault(), "a chain longer than its table");
}

TEST_F(VirtQueueTest, RefusesHeadsAndNextsThatAreNoDescriptors) {
  driver_.offer_head(kSize);
  EXPECT_EQ(fault(), "a head index is not below the queue's size");
  driver_.enable(queue_);
  driver_.available_index() = 0;
  driver_.descriptor(0) = {.address = ram_.room(4).value, .length = 4, .flags = ring_abi::kNext, .next = 0xFFFF};
  driver_.offer_head(0);
  EXPECT_EQ(fault(), "a next index outside its table");
}

TEST_F(VirtQueueTest, RefusesAddressesOutsideMemory) {
  const std::uint64_t end = ram_.end();
  const struct {
    std::uint64_t at;
    std::uint32_t length;
  } bad[] = {{end, 1}, {end - 1, 2}, {~0ULL, 2}, {~0ULL - 3, 4}, {0, UINT32_MAX}, {0xD000'0000, 4}, {1ULL << 40, 1}};
  for (const auto& [at, length] : bad) {
    driver_.enable(queue_);
    driver_.available_index() = 0;
    driver_.descriptor(0) = {.address = at, .length = length, .flags = 0, .next = 0};
    driver_.offer_head(0);
    EXPECT_EQ(fault(), "a buffer outside memory") << at << " " << length;
  }
}

TEST_F(VirtQueueTest, RefusesAnIndexThatJumps) {
  driver_.available_index() = kSize + 1;
  EXPECT_EQ(fault(), "the available index jumped by more than the queue's size");
  driver_.enable(queue_);
  driver_.available_index() = 0xFFFF;
  EXPECT_EQ(fault(), "the available index jumped by more than the queue's size");
}

TEST_F(VirtQueueTest, RefusesAReadableBufferAfterAWritableOne) {
  driver_.offer({{ram_.room(4), 4, true}, {ram_.room(4), 4, false}});
  EXPECT_EQ(fault(), "a readable buffer after a writable one");
}

TEST_F(VirtQueueTest, AnIndirectTableMayBeLongerThanTheQueue) {
  // Linux halves a ring that it finds no memory for, and goes on with tables of seg_max + 2.
  const GuestAddress buffer = ram_.room(4);
  for (const std::size_t entries : {std::size_t{kSize} + 1, VirtQueue::kMaximumSegments}) {
    driver_.offer_indirect(std::vector<FakeBuffer>(entries, {buffer, 4, true}));
    VirtQueue::Storage storage;
    auto taken = queue_.take(storage);
    ASSERT_TRUE(taken) << taken.error().what;
    ASSERT_TRUE(*taken);
    EXPECT_EQ((*taken)->writable().size(), entries);
    queue_.put(std::move(**taken), 0);
  }
}

TEST_F(VirtQueueTest, AnIndirectTableThatGoesRoundEndsAtItsLength) {
  const GuestAddress table = ram_.room(16 * VirtQueue::kMaximumSegments);
  for (std::size_t i = 0; i < VirtQueue::kMaximumSegments; ++i) {
    const ring_abi::Descriptor empty{.address = table.value, .length = 0, .flags = ring_abi::kNext, .next = 0};
    std::memcpy(ram_.bytes({table.value + 16 * i}, 16).data(), &empty, sizeof empty);
  }
  driver_.descriptor(0) = {
      .address = table.value, .length = 16 * VirtQueue::kMaximumSegments, .flags = ring_abi::kIndirect, .next = 0};
  driver_.offer_head(0);
  EXPECT_EQ(fault(), "a chain longer than its table");
}

TEST_F(VirtQueueTest, RefusesIndirectTablesThatAreNone) {
  const GuestAddress table = ram_.room(16 * 64);
  const auto offer = [&](std::uint64_t at, std::uint32_t length, std::uint16_t flags) {
    driver_.enable(queue_);
    driver_.available_index() = 0;
    driver_.descriptor(0) = {.address = at, .length = length, .flags = flags, .next = 1};
    driver_.offer_head(0);
    return fault();
  };
  EXPECT_EQ(offer(table.value, 0, ring_abi::kIndirect), "an indirect table of a size that is none");
  EXPECT_EQ(offer(table.value, 17, ring_abi::kIndirect), "an indirect table of a size that is none");
  EXPECT_EQ(offer(table.value, 16 * (VirtQueue::kMaximumSegments + 1), ring_abi::kIndirect),
            "an indirect table of a size that is none");
  EXPECT_EQ(offer(table.value, 0xFFFF'FFF0, ring_abi::kIndirect), "an indirect table of a size that is none");
  EXPECT_EQ(offer(ram_.end(), 16, ring_abi::kIndirect), "an indirect table outside memory");
  EXPECT_EQ(offer(table.value, 16, ring_abi::kIndirect | ring_abi::kNext), "an indirect descriptor with a next one");
  const ring_abi::Descriptor inner{.address = table.value, .length = 16, .flags = ring_abi::kIndirect, .next = 0};
  std::memcpy(ram_.bytes(table, 16).data(), &inner, sizeof inner);
  EXPECT_EQ(offer(table.value, 16, ring_abi::kIndirect), "an indirect descriptor within an indirect table");
}

TEST_F(VirtQueueTest, RefusesChainsOverFourGigabytes) {
  FakeMemory ram{3 * 1024};  // virtual: no page of it is touched but the queue's
  FakeQueue driver{ram, kSize};
  VirtQueue queue{ram.memory(), kSize};
  driver.enable(queue);
  const std::uint32_t part = 0x8000'0000;
  driver.offer({{GuestAddress{0}, part, true}, {GuestAddress{0}, part, true}, {GuestAddress{0}, part, true}});
  const auto taken = queue.take(storage_);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().what, "a chain of more than 4 GiB");
}

TEST_F(VirtQueueTest, RefusesMoreBuffersThanTheDeviceHasRoomFor) {
  driver_.offer({{ram_.room(4), 4, true}, {ram_.room(4), 4, true}, {ram_.room(4), 4, true}});
  std::array<iovec, 2> small{};
  const auto taken = queue_.take(small);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().what, "a chain of more buffers than the device said it takes");
}

TEST_F(VirtQueueTest, AFaultIsForGoodUntilTheReset) {
  driver_.offer_head(kSize);
  EXPECT_NE(fault(), "");
  driver_.available_entry(0) = 0;
  EXPECT_FALSE(queue_.take(storage_).value().has_value());
  EXPECT_FALSE(queue_.has_more());
  queue_.reset();
  driver_.available_index() = 0;
  driver_.enable(queue_);
  driver_.offer({{ram_.room(4), 4, true}});
  EXPECT_EQ(fault(), "");
}

TEST_F(VirtQueueTest, IsNotEnabledWhereItsPartsDoNotFit) {
  const auto with = [&](auto change) {
    VirtQueue queue{ram_.memory(), 256};
    driver_.fill(queue.registers());
    change(queue.registers());
    return queue.enable(false).has_value();
  };
  EXPECT_TRUE(with([](QueueState&) {}));
  EXPECT_FALSE(with([](QueueState& r) { r.size = 0; }));
  EXPECT_FALSE(with([](QueueState& r) { r.size = 7; }));
  EXPECT_FALSE(with([](QueueState& r) { r.size = 512; }));
  EXPECT_FALSE(with([](QueueState& r) { r.descriptors.value += 8; }));
  EXPECT_FALSE(with([](QueueState& r) { r.available.value += 1; }));
  EXPECT_FALSE(with([](QueueState& r) { r.used.value += 2; }));
  EXPECT_FALSE(with([&](QueueState& r) { r.descriptors.value = ram_.end() - 16; }));
  EXPECT_FALSE(with([](QueueState& r) { r.available.value = ~1ULL; }));
  EXPECT_FALSE(with([](QueueState& r) { r.used.value = 0xFEE0'0000; }));
}

// --- Against a model -------------------------------------------------------------------------------------------------

TEST_F(VirtQueueTest, RandomChainsComeBackEachOnceInAnyOrder) {
  std::mt19937 random{20'241};
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  const GuestAddress buffer = ram_.room(4096);
  std::vector<Chain> held;
  std::vector<std::array<iovec, 8>> storages(kSize);
  std::vector<std::size_t> free_storages(kSize);
  std::iota(free_storages.begin(), free_storages.end(), std::size_t{0});
  std::map<std::uint16_t, std::size_t> storage_of;
  std::map<std::uint32_t, std::uint64_t> expected;  // by head: bytes in the chain
  unsigned returned = 0;
  for (int step = 0; step < 20'000; ++step) {
    const std::size_t parts = 1 + below(3);
    if (below(2) == 0 && driver_.free_descriptors() >= parts) {
      std::vector<FakeBuffer> buffers;
      const std::size_t readable = below(parts + 1);
      std::uint64_t bytes = 0;
      for (std::size_t i = 0; i < parts; ++i) {
        buffers.push_back({buffer, static_cast<std::uint32_t>(below(4096)), i >= readable});
        bytes += buffers.back().length;
      }
      const std::uint16_t head = below(4) == 0 ? driver_.offer_indirect(buffers) : driver_.offer(buffers);
      expected[head] = bytes;
    }
    if (below(2) == 0 && !free_storages.empty()) {
      auto taken = queue_.take(storages[free_storages.back()]);
      ASSERT_TRUE(taken) << taken.error().what;
      if (*taken) {
        ASSERT_EQ((*taken)->readable_length() + (*taken)->writable_length(), expected.at((*taken)->head()));
        storage_of[(*taken)->head()] = free_storages.back();
        free_storages.pop_back();
        held.push_back(std::move(**taken));
      }
    }
    if (below(2) == 0 && !held.empty()) {
      std::swap(held[below(held.size())], held.back());
      free_storages.push_back(storage_of[held.back().head()]);
      const auto head = held.back().head();
      queue_.put(std::move(held.back()), head);
      held.pop_back();
      (void)queue_.publish();
    }
    while (const auto used = driver_.next_used()) {
      ASSERT_EQ(used->id, used->length);
      ASSERT_EQ(expected.erase(used->id), 1U);
      ++returned;
    }
  }
  for (Chain& chain : held) queue_.put(std::move(chain), 0);
  EXPECT_GT(returned, 4000U);
}

TEST_F(VirtQueueTest, ARestoredQueueGoesOnAtTheSameDescriptor) {
  driver_.offer({{ram_.room(4), 4, true}});
  queue_.put(take(), 1);
  (void)queue_.publish();
  (void)driver_.next_used();
  const std::uint16_t second = driver_.offer({{ram_.room(4), 4, true}});

  VirtQueue restored{ram_.memory(), 256};
  ASSERT_TRUE(restored.restore(queue_.state()));
  EXPECT_EQ(restored.state(), queue_.state());
  auto taken = restored.take(storage_);
  ASSERT_TRUE(taken && *taken);
  EXPECT_EQ((*taken)->head(), second);
  restored.put(std::move(**taken), 7);
  EXPECT_TRUE(restored.publish());
  EXPECT_EQ(driver_.next_used()->length, 7U);
}

TEST_F(VirtQueueTest, ASavedQueueOutsideMemoryIsRefused) {
  QueueState state = queue_.state();
  state.used = GuestAddress{ram_.end()};
  VirtQueue restored{ram_.memory(), 256};
  EXPECT_FALSE(restored.restore(state));
  EXPECT_FALSE(restored.ready());
}

}  // namespace
}  // namespace mayfly
