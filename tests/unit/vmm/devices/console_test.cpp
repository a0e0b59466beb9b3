#include "vmm/devices/console.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <optional>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::Pipe;

class SilentSink final : public InterruptSink {
 public:
  void set_pin(unsigned, bool) noexcept override {}
};

class StillClock final : public MonotonicClock {
 public:
  [[nodiscard]] std::uint64_t now_ns() const noexcept override { return 0; }
};

// Registers of the 16550A.
constexpr std::uint64_t kData = 0;
constexpr std::uint64_t kInterruptEnable = 1;
constexpr std::uint64_t kFifoControl = 2;
constexpr std::uint64_t kLineStatus = 5;

/// A console between two pipes, and a guest that is played by the test.
class ConsoleTest : public ::testing::Test {
 protected:
  ConsoleTest() {
    auto loop = EventLoop::create();
    if (!loop) std::abort();
    loop_ = std::move(*loop);
  }
  ~ConsoleTest() override { loop_->close(); }

  void make(std::function<void()> on_quit = {}, std::optional<TokenBucketConfig> rate = {}) {
    console_.emplace(*loop_, clock_, metrics_,
                     ConsoleOptions{.input_fd = in_.read.get(),
                                    .output_fd = out_.write.get(),
                                    .rate_limiter = rate,
                                    .max_bytes = max_bytes_,
                                    .on_quit = std::move(on_quit),
                                    .gather_at_most = gather_at_most_},
                     InterruptLine{sink_, 4});
    guest_writes(kFifoControl, 1);
    console_->start();
  }
  void guest_writes(std::uint64_t port, std::uint8_t value) {
    console_->serial().write(port, std::array{std::byte{value}});
  }
  void guest_prints(const std::string& text) {
    for (const char letter : text) guest_writes(kData, static_cast<std::uint8_t>(letter));
  }
  /// What the guest's receiver holds now.
  std::string guest_reads() {
    std::string text;
    std::array<std::byte, 1> byte{};
    for (;;) {
      console_->serial().read(kLineStatus, byte);
      if ((byte[0] & std::byte{1}) == std::byte{0}) return text;
      console_->serial().read(kData, byte);
      text += std::to_integer<char>(byte[0]);
    }
  }
  void type(const std::string& keys) {
    ASSERT_EQ(::write(in_.write.get(), keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  /// Runs the loop until `done` holds; it is asked after each round.
  void run_until(std::function<bool()> done) {
    const double deadline = testing::now_us() + 20e6;
    while (!done()) {
      ASSERT_LT(testing::now_us(), deadline);
      loop_->post([this] { loop_->stop(); });
      ASSERT_TRUE(loop_->run());
    }
  }

  std::unique_ptr<EventLoop> loop_;
  SilentSink sink_;
  StillClock clock_;
  UartMetrics metrics_;
  std::optional<std::uint64_t> max_bytes_{};
  __kernel_timespec gather_at_most_{.tv_sec = 0, .tv_nsec = 1'000'000};
  Pipe in_, out_;
  std::optional<Console> console_;
};

TEST_F(ConsoleTest, CarriesOutputToItsDescriptorInOrder) {
  make();
  std::string wanted;
  for (int i = 0; i < 3000; ++i) wanted += std::to_string(i) + "\n";
  guest_prints(wanted);
  bool drained = false;
  console_->when_drained([&] { drained = true; });
  run_until([&] { return drained; });
  std::string text;
  testing::read_until(out_.read.get(), text, "2999\n");
  EXPECT_EQ(text, wanted);
  EXPECT_EQ(metrics_.write_count.value(), wanted.size());
}

TEST_F(ConsoleTest, WritesTogetherWhatFollowsAWrite) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_DIRECT | O_NONBLOCK | O_CLOEXEC), 0);  // keeps writes apart
  out_.read = OwnedFd{ends[0]};
  out_.write = OwnedFd{ends[1]};
  make();
  constexpr std::size_t kBytes = 1000;
  std::size_t writes = 0;
  std::size_t bytes = 0;
  const auto read_all = [&] {
    std::array<char, 4096> piece{};
    for (ssize_t count = 0; (count = ::read(out_.read.get(), piece.data(), piece.size())) > 0; ++writes)
      bytes += static_cast<std::size_t>(count);
  };
  for (std::size_t i = 0; i < kBytes; ++i) {
    guest_prints("x");
    run_until([rounds = 0]() mutable { return ++rounds == 2; });
    read_all();
  }
  run_until([&] {
    read_all();
    return bytes == kBytes;
  });
  EXPECT_LT(writes, kBytes / 2);  // how many depends on how fast this is
}

/// Where nothing but the end of a burst can end the wait for company: its time would be an hour.
class ConsoleBurstTest : public ConsoleTest {
 protected:
  ConsoleBurstTest() {
    gather_at_most_ = {.tv_sec = 3600, .tv_nsec = 0};
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_DIRECT | O_NONBLOCK | O_CLOEXEC) != 0) std::abort();  // keeps writes apart
    out_.read = OwnedFd{ends[0]};
    out_.write = OwnedFd{ends[1]};
    make();
  }
  /// Runs the loop until the next write has come, and returns it.
  std::string next_write() {
    std::array<char, 4096> piece{};
    ssize_t count = 0;
    run_until([&] { return (count = ::read(out_.read.get(), piece.data(), piece.size())) > 0; });
    return {piece.data(), static_cast<std::size_t>(std::max<ssize_t>(count, 0))};
  }
  void rest() {
    run_until([rounds = 0]() mutable { return ++rounds == 5; });
  }
};

TEST_F(ConsoleBurstTest, IsWrittenAtOnceAndInTwoPieces) {
  guest_prints("a");
  EXPECT_EQ(next_write(), "a");
  rest();
  guest_prints("nswer: 42");
  guest_writes(kInterruptEnable, 0);
  EXPECT_EQ(next_write(), "nswer: 42");
}

TEST_F(ConsoleBurstTest, EndsWhileItsFirstByteIsBeingWritten) {
  guest_prints("answer\n");  // before the loop has had a turn
  EXPECT_EQ(next_write(), "answer\n");
  rest();
  guest_prints("next");
  EXPECT_EQ(next_write(), "next");
}

TEST_F(ConsoleBurstTest, WithoutAnEndItWaits) {
  guest_prints("a");
  EXPECT_EQ(next_write(), "a");
  rest();
  guest_prints("b");
  rest();
  std::array<char, 1> byte{};
  EXPECT_EQ(::read(out_.read.get(), byte.data(), byte.size()), -1);
  bool drained = false;
  console_->when_drained([&] { drained = true; });
  run_until([&] { return drained; });
  EXPECT_EQ(next_write(), "b");
}

TEST_F(ConsoleTest, AReaderThatStopsCostsOutputButNoTime) {
  make();
  guest_prints(std::string(300'000, 'x'));
  EXPECT_GT(metrics_.dropped_bytes.value(), 200'000U);
}

TEST_F(ConsoleTest, AReaderThatLeavesIsCountedAndTheGuestGoesOn) {
  ::signal(SIGPIPE, SIG_IGN);
  make();
  out_.read.reset();
  guest_prints("nobody hears this");
  run_until([&] { return metrics_.flush_errors.value() > 0; });
  bool drained = false;
  console_->when_drained([&] { drained = true; });
  run_until([&] { return drained; });
}

TEST_F(ConsoleTest, ANonBlockingDescriptorThatIsFullIsWaitedFor) {
  ASSERT_EQ(::fcntl(out_.write.get(), F_SETFL, O_NONBLOCK), 0);
  ASSERT_EQ(::fcntl(out_.read.get(), F_SETFL, O_NONBLOCK), 0);
  ASSERT_EQ(::fcntl(out_.write.get(), F_SETPIPE_SZ, 4096), 4096);
  make();
  guest_prints(std::string(20'000, 'x'));
  std::string text;
  run_until([&] {
    std::array<char, 4096> piece{};
    if (const ssize_t count = ::read(out_.read.get(), piece.data(), piece.size()); count > 0)
      text.append(piece.data(), static_cast<std::size_t>(count));
    return text.size() == 20'000;
  });
  EXPECT_EQ(metrics_.flush_errors.value(), 0U);
}

TEST_F(ConsoleTest, GivesInputToTheGuestOnlyAsFastAsItTakesIt) {
  make();
  std::string typed;
  for (int i = 0; i < 200; ++i) typed += static_cast<char>('a' + i % 26);
  type(typed);
  std::string received;
  run_until([&] {
    received += guest_reads();
    return received.size() >= typed.size();
  });
  EXPECT_EQ(received, typed);
}

TEST_F(ConsoleTest, WhatAReceiverThatWentBackHasNotTakenComesToTheOneThatIsThereNow) {
  make();
  const SerialState fresh = console_->serial().state();
  std::string typed;
  for (int i = 0; i < 40; ++i) typed += static_cast<char>('a' + i % 26);
  type(typed);
  run_until([&] { return console_->serial().room() == 0; });
  for (int i = 0; i < 2; ++i) {
    console_->serial().restore(fresh);
    console_->offer_again();  // 16 bytes each time, of which the last are read
  }
  std::string received;
  run_until([&] { return (received += guest_reads()).size() == 8; });
  EXPECT_EQ(received, typed.substr(32));
  type("more");
  run_until([&] { return (received += guest_reads()).size() == 12; });
  EXPECT_EQ(received, typed.substr(32) + "more") << "once";
}

TEST_F(ConsoleTest, ARestoreBetweenANoticeOfRoomAndItsTaskReadsNothingTwice) {
  make();
  const SerialState fresh = console_->serial().state();
  const std::string typed = "abcdefghijklmnopqrst";
  type(typed);
  run_until([&] { return console_->serial().room() == 0; });
  EXPECT_EQ(guest_reads(), typed.substr(0, 16));  // upon which there is room, and a task for that
  console_->serial().restore(fresh);
  console_->offer_again();
  std::string received;
  run_until([&] { return (received += guest_reads()).size() == 4; });
  type("more");
  run_until([&] { return (received += guest_reads()).size() == 8; });
  EXPECT_EQ(received, "qrstmore");
}

TEST_F(ConsoleTest, ControlAThenXQuitsWhenThatWasAskedFor) {
  bool quit = false;
  make([&] { quit = true; });
  type("ab\x01");
  std::string received;
  run_until([&] { return (received += guest_reads()).size() == 2; });
  EXPECT_FALSE(quit);
  type("x");
  run_until([&] { return quit; });
  EXPECT_EQ(received + guest_reads(), "ab");
}

TEST_F(ConsoleTest, ControlATwiceSendsOne) {
  make([] { FAIL() << "quit without Ctrl-A x"; });
  type("\x01\x01x\x01y");
  std::string received;
  run_until([&] { return (received += guest_reads()).size() == 3; });
  EXPECT_EQ(received, "\x01xy");
}

TEST_F(ConsoleTest, WithoutAQuitKeyEveryByteIsTheGuests) {
  make();
  type("\x01x");
  std::string received;
  run_until([&] { return (received += guest_reads()).size() == 2; });
  EXPECT_EQ(received, "\x01x");
}

TEST_F(ConsoleTest, TheEndOfTheInputLeavesTheGuestAlone) {
  make();
  in_.write.reset();
  guest_prints("still here");
  bool drained = false;
  console_->when_drained([&] { drained = true; });
  run_until([&] { return drained; });
  EXPECT_EQ(guest_reads(), "");
}

TEST_F(ConsoleTest, AFileWithALimitKeepsTheNewestBytesAndTakesNoMore) {
  const testing::ScratchDirectory scratch;
  const std::string path = testing::make_file(scratch.file("console"), std::string(300'000, 'o'));
  out_.write = OwnedFd{::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC)};
  max_bytes_ = kLeastBound;
  make();
  for (int round = 0; round < 40; ++round) {
    std::string line(50'001, static_cast<char>('a' + round % 26));
    line.back() = '\n';
    guest_prints(line);
    bool drained = false;
    console_->when_drained([&] { drained = true; });
    run_until([&] { return drained; });
    struct stat status{};
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    ASSERT_EQ(status.st_size, 300'000 + (round + 1) * 50'001);
    ASSERT_LE(status.st_blocks * 512, static_cast<off_t>(kLeastBound) + 4096);
  }
  EXPECT_EQ(metrics_.dropped_bytes.value() + metrics_.flush_errors.value(), 0U);
  const std::string text = testing::content_of(path);
  EXPECT_TRUE(text.ends_with("nn\n"));
  const std::size_t kept = text.size() - text.find_first_not_of('\0');
  EXPECT_GE(kept, kLeastBound / 2 - 4096);

  // Somebody clears it.
  ASSERT_EQ(::truncate(path.c_str(), 0), 0);
  guest_prints("begins anew\n");
  bool drained = false;
  console_->when_drained([&] { drained = true; });
  run_until([&] { return drained; });
  EXPECT_EQ(testing::content_of(path), "begins anew\n");
}

TEST_F(ConsoleTest, WhereNoRoomCanBeMadeOutputIsLostAndTheConsoleGoesOn) {
  // The kernel makes no hole in what is sealed.
  out_.write = OwnedFd{::memfd_create("console", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  ASSERT_EQ(::ftruncate(out_.write.get(), static_cast<off_t>(kLeastBound) - 10), 0);
  max_bytes_ = kLeastBound;
  make();
  ASSERT_EQ(::fcntl(out_.write.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  guest_prints("there is no room");
  bool drained = false;
  console_->when_drained([&] { drained = true; });
  run_until([&] { return drained; });
  EXPECT_GT(metrics_.flush_errors.value(), 0U);
  struct stat status{};
  ASSERT_EQ(::fstat(out_.write.get(), &status), 0);
  EXPECT_EQ(status.st_size, static_cast<off_t>(kLeastBound) - 10);
}

}  // namespace
}  // namespace mayfly
