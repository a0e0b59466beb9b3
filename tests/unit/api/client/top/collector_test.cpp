#include "api/client/top/collector.h"

#include "api/client/deadline.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "vmm/base/unix_listener.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace mayfly::top {
namespace {

namespace fs = std::filesystem;

/// A procfs with one machine, whose process is this one: nobody else's socket would be spoken to.
class CollectorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const fs::path process = process_directory();
    fs::create_directories(process / "ns");
    fs::create_symlink("/usr/bin/mayfly", process / "exe");
    fs::create_symlink("/", process / "cwd");
    fs::create_symlink("/", process / "root");
    fs::create_symlink(fs::read_symlink("/proc/self/ns/mnt"), process / "ns/mnt");
    describe_process({"mayfly", "--id", "vm-7", "--api-sock", listener_.path()}, 998877);
    testing::make_file((process / "smaps_rollup").string(), "Shared_Clean: 30 kB\nPrivate_Dirty: 20 kB\n");
  }
  void describe_process(const std::vector<std::string>& words, int start) {
    std::string line;
    for (const std::string& word : words) line += word + '\0';
    testing::make_file((process_directory() / "cmdline").string(), line);
    testing::make_file((process_directory() / "stat").string(),
                       fmt::format("1 (mayfly) S 1 1 1 0 -1 1 1 0 0 0 37 5 0 0 20 0 4 0 {} 1", start));
  }
  [[nodiscard]] fs::path process_directory() const { return fs::path{proc()} / std::to_string(::getpid()); }
  [[nodiscard]] std::string proc() const { return scratch_.file("proc"); }

  /// Who asks, until a time at which nobody does.
  OwnedFd next_client(std::chrono::milliseconds patience = std::chrono::seconds{10}) {
    if (!is_ready_by(Deadline::clock::now() + patience, listener_.fd(), POLLIN)) return {};
    return OwnedFd{::accept(listener_.fd(), nullptr, nullptr)};
  }
  /// Answers a state and metrics, whichever is asked.
  void answer(const OwnedFd& client) {
    std::array<char, 4096> bytes{};
    const ssize_t count = ::recv(client.get(), bytes.data(), bytes.size(), 0);
    ASSERT_GT(count, 0);
    const std::string_view request{bytes.data(), static_cast<std::size_t>(count)};
    const std::string body = request.starts_with("GET /metrics/prometheus ") ? "mayfly_net_rx_bytes_count_total 77\n"
                                                                             : R"({"state": "Running"})";
    const std::string text = fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", body.size(), body);
    EXPECT_EQ(::send(client.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  /// The one sample, once the round is complete.
  Sample sample_after_answers() {
    const Deadline deadline = Deadline::clock::now() + std::chrono::seconds{10};
    while (!collector_.is_complete() && is_ready_by(deadline, collector_.fd(), POLLIN)) collector_.take_answers();
    EXPECT_TRUE(collector_.is_complete());
    return only_sample();
  }
  Sample only_sample() {
    const std::vector<Sample> samples = collector_.samples();
    EXPECT_EQ(samples.size(), 1U);
    return samples.empty() ? Sample{} : samples.front();
  }

  testing::ScratchDirectory scratch_;
  UnixListener listener_ = UnixListener::create(scratch_.file("sock")).value();
  Collector collector_ = Collector::create(proc()).value();
};

TEST_F(CollectorTest, AsksEachMachineAndLooksAtItsProcess) {
  collector_.begin_round();
  EXPECT_FALSE(collector_.is_complete());
  for (int i = 0; i < 2; ++i) answer(next_client());
  const Sample sample = sample_after_answers();
  EXPECT_EQ(sample.machine.id, "vm-7");
  EXPECT_EQ(sample.machine.pid, ::getpid());
  EXPECT_EQ(sample.state, "Running");
  ASSERT_TRUE(sample.times && sample.memory && sample.counters);
  EXPECT_EQ(sample.times->value.cpu_ticks, 42U);
  EXPECT_EQ(sample.memory->private_kib, 20U);
  EXPECT_EQ(sample.memory->shared_kib, 30U);
  EXPECT_EQ(sample.counters->value.rx_bytes, 77U);
}

TEST_F(CollectorTest, AMachineThatOwesAnAnswerIsNotAskedAgain) {
  collector_.begin_round();
  EXPECT_EQ(only_sample().state, "no answer");
  collector_.begin_round();
  EXPECT_TRUE(collector_.is_complete()) << "who was asked before is not waited for";
  EXPECT_EQ(only_sample().state, "no answer");
  EXPECT_TRUE(only_sample().times) << "its process is looked at all the same";
  OwnedFd first = next_client();
  OwnedFd second = next_client();
  EXPECT_FALSE(next_client(std::chrono::milliseconds{1}));
  answer(first);
  answer(second);
  const Deadline deadline = Deadline::clock::now() + std::chrono::seconds{10};
  while (only_sample().state == "no answer" && is_ready_by(deadline, collector_.fd(), POLLIN))
    collector_.take_answers();
  EXPECT_EQ(only_sample().state, "Running") << "late answers count";
  collector_.begin_round();
  EXPECT_FALSE(collector_.is_complete()) << "it is back in the round";
}

TEST_F(CollectorTest, AMachineWhoseMetricsTakeLongSaysItsState) {
  collector_.begin_round();
  const OwnedFd state = next_client();
  const OwnedFd metrics = next_client();
  const auto state_after = [this](const OwnedFd& asked) {
    answer(asked);
    const Deadline deadline = Deadline::clock::now() + std::chrono::seconds{10};
    while (only_sample().state == "no answer" && is_ready_by(deadline, collector_.fd(), POLLIN))
      collector_.take_answers();
    return only_sample().state;
  };
  EXPECT_EQ(state_after(state), "Running");
  EXPECT_FALSE(collector_.is_complete());
  EXPECT_FALSE(only_sample().counters);
  collector_.begin_round();
  EXPECT_EQ(only_sample().state, "no answer") << "it was told a round ago";
  const OwnedFd again = next_client();
  EXPECT_EQ(state_after(again), "Running");
  EXPECT_TRUE(collector_.is_complete()) << "its metrics are another round's";
  EXPECT_FALSE(next_client(std::chrono::milliseconds{1})) << "and not asked for again";
  answer(metrics);
  ASSERT_TRUE(is_ready_by(Deadline::clock::now() + std::chrono::seconds{10}, collector_.fd(), POLLIN));
  collector_.take_answers();
  EXPECT_EQ(only_sample().counters->value.rx_bytes, 77U);
}

TEST_F(CollectorTest, SaysWhoCannotBeAsked) {
  collector_.begin_round();
  for (int i = 0; i < 2; ++i) next_client().reset();  // gone without an answer
  EXPECT_EQ(sample_after_answers().state, "unreachable");
  describe_process({"mayfly", "--id", "vm-7", "--api-sock", scratch_.file("nowhere")}, 998877);
  collector_.begin_round();
  EXPECT_EQ(sample_after_answers().state, "unreachable");
  describe_process({"mayfly", "run", "--kernel", "k"}, 998877);
  collector_.begin_round();
  EXPECT_EQ(sample_after_answers().state, "no API");
}

TEST_F(CollectorTest, ForgetsTheCountersOfAnotherProcess) {
  collector_.begin_round();
  for (int i = 0; i < 2; ++i) answer(next_client());
  EXPECT_TRUE(sample_after_answers().counters);
  describe_process({"mayfly", "--id", "vm-8", "--no-api"}, 998878);
  collector_.begin_round();
  EXPECT_FALSE(sample_after_answers().counters);
  fs::remove_all(process_directory());
  collector_.begin_round();
  EXPECT_TRUE(collector_.samples().empty());
}

TEST_F(CollectorTest, ForgetsWhoIsGoneWithoutAnAnswer) {
  collector_.begin_round();
  fs::remove_all(process_directory());
  collector_.begin_round();
  EXPECT_TRUE(collector_.is_complete());
  EXPECT_TRUE(collector_.samples().empty());
}

}  // namespace
}  // namespace mayfly::top
