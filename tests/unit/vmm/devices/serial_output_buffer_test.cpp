#include "vmm/devices/serial_output_buffer.h"

#include "tests/unit/vmm/devices/fakes.h"

#include <atomic>
#include <string>
#include <string_view>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

class Flushes final : public FlushRequest {
 public:
  void flush_wanted() noexcept override { ++count; }
  void burst_ended() noexcept override { ++bursts; }
  std::atomic<unsigned> count = 0;
  unsigned bursts = 0;
};

class SerialOutputBufferTest : public ::testing::Test {
 protected:
  void put(std::string_view text) {
    for (const char c : text) buffer_.put(static_cast<std::byte>(c));
  }
  static std::string text(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte byte : bytes) text.push_back(static_cast<char>(byte));
    return text;
  }
  std::string drain() {
    std::string all;
    for (auto bytes = buffer_.front(); !bytes.empty(); bytes = buffer_.front()) {
      all += text(bytes);
      buffer_.consume(bytes.size());
    }
    return all;
  }

  fakes::Clock clock_;
  UartMetrics metrics_;
  Flushes flushes_;
  SerialOutputBuffer buffer_{std::nullopt, clock_, metrics_, flushes_};
};

TEST_F(SerialOutputBufferTest, KeepsBytesInOrderUntilTheyAreConsumed) {
  EXPECT_TRUE(buffer_.front().empty());
  put("hello");
  EXPECT_EQ(text(buffer_.front()), "hello");
  buffer_.consume(2);
  put("!");
  EXPECT_EQ(drain(), "llo!");
  EXPECT_EQ(metrics_.write_count.value(), 6U);
}

TEST_F(SerialOutputBufferTest, ABurstOfNothingEndsUnheard) {
  buffer_.flush();
  EXPECT_EQ(flushes_.bursts, 0U);
  put("x");
  buffer_.flush();
  EXPECT_EQ(flushes_.bursts, 1U);
}

TEST_F(SerialOutputBufferTest, AsksForAFlushOnceUntilItIsEmptyAgain) {
  put("one line\n");
  EXPECT_EQ(flushes_.count, 1U);
  buffer_.consume(3);
  put("more");
  EXPECT_EQ(flushes_.count, 1U);
  drain();
  EXPECT_EQ(flushes_.count, 1U);
  put("x");
  EXPECT_EQ(flushes_.count, 2U);
}

TEST_F(SerialOutputBufferTest, AReaderThatStopsCostsBytesThatAreCountedAndNothingElse) {
  const std::string lots(kSerialOutputCapacity + 1000, 'x');
  put(lots);
  EXPECT_EQ(metrics_.write_count.value(), kSerialOutputCapacity);
  EXPECT_EQ(metrics_.dropped_bytes.value(), 1000U);
  EXPECT_EQ(flushes_.count, 1U);
  buffer_.consume(1);
  put("yz");
  EXPECT_EQ(metrics_.dropped_bytes.value(), 1001U);
  const std::string all = drain();
  EXPECT_EQ(all.size(), kSerialOutputCapacity);
  EXPECT_EQ(all.back(), 'y');
  put("again");
  EXPECT_EQ(drain(), "again");
}

TEST_F(SerialOutputBufferTest, WrapsAround) {
  std::string expected;
  std::string drained;
  put(std::string(kSerialOutputCapacity - 10, '.'));
  buffer_.consume(kSerialOutputCapacity - 20);
  for (unsigned i = 0; i < 40; ++i) put(std::string(1, static_cast<char>('a' + i % 26)));
  EXPECT_EQ(buffer_.front().size(), 20U) << "up to the end of the memory";
  EXPECT_EQ(drain(), "..........abcdefghijklmnopqrstuvwxyzabcdefghijklmn");
}

TEST_F(SerialOutputBufferTest, ConsumingTooMuchTakesWhatIsThere) {
  put("abc");
  buffer_.consume(100);
  EXPECT_TRUE(buffer_.front().empty());
  put("d");
  EXPECT_EQ(drain(), "d");
}

TEST_F(SerialOutputBufferTest, BeyondItsRateBytesAreDroppedAndCountedApart) {
  SerialOutputBuffer limited{TokenBucketConfig{.size = 10, .refill_time_ms = 1000, .one_time_burst = 5}, clock_,
                             metrics_, flushes_};
  for (unsigned i = 0; i < 20; ++i) limited.put(std::byte{'x'});
  EXPECT_EQ(metrics_.rate_limiter_dropped_bytes.value(), 5U);
  EXPECT_EQ(metrics_.dropped_bytes.value(), 0U);
  EXPECT_EQ(limited.front().size(), 15U);
  clock_.now += 300'000'000;
  for (unsigned i = 0; i < 4; ++i) limited.put(std::byte{'y'});
  EXPECT_EQ(limited.front().size(), 18U);
  EXPECT_EQ(metrics_.rate_limiter_dropped_bytes.value(), 6U);
}

TEST_F(SerialOutputBufferTest, AWriterAndAReaderAtOnceLoseAndReorderNothing) {
  constexpr unsigned kBytes = 300'000;
  std::string all;
  std::atomic<bool> done = false;
  {
    const std::jthread vcpu{[&] {
      for (unsigned i = 0; i < kBytes; ++i) buffer_.put(static_cast<std::byte>(i % 251));
      done = true;
    }};
    while (!done) {
      const auto bytes = buffer_.front();
      all += text(bytes);
      buffer_.consume(bytes.size());
    }
  }
  all += drain();
  EXPECT_EQ(all.size() + metrics_.dropped_bytes.value(), kBytes);
  EXPECT_EQ(metrics_.write_count.value(), all.size());
  if (metrics_.dropped_bytes.value() > 0) return;
  for (unsigned i = 0; i < kBytes; ++i) ASSERT_EQ(static_cast<unsigned char>(all[i]), i % 251) << i;
}

}  // namespace
}  // namespace mayfly
