#include "vmm/machine/metrics_sink.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "vmm/base/json_value.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <sstream>
#include <type_traits>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

void add_to_all(Metrics& metrics, std::uint64_t amount) {
  for_each_metric(metrics, [amount](std::string_view, std::string_view, std::string_view, auto& metric) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(metric)>, Counter>)
      metric.add(amount);
    else
      metric.set(amount);
  });
}

TEST(MetricsSink, ALineOfABusyMachineIsNoLongerThanAPipeTakesWhole) {
  const testing::ScratchDirectory scratch;
  const std::string path = scratch.file("metrics");
  auto sink = MetricsSink::open(
      {.metrics_path = path, .emit_id = true, .properties = {{"zone", std::string(100, 'z')}}}, std::string(64, 'i'));
  ASSERT_TRUE(sink) << sink.error().message;
  Metrics metrics;
  add_to_all(metrics, 1'000'000);
  ASSERT_TRUE(sink->flush(metrics));
  EXPECT_LE(testing::content_of(path).size(), std::size_t{PIPE_BUF});
}

TEST(MetricsSink, ALineThatAPipeTakesInPartIsFinishedBeforeTheNext) {
  const testing::ScratchDirectory scratch;
  const std::string path = scratch.file("fifo");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  // Characters that are written as two.
  auto sink = MetricsSink::open(
      {.metrics_path = path, .emit_id = false, .properties = {{"quotes", std::string(250, '"')}}}, "vm");
  ASSERT_TRUE(sink) << sink.error().message;
  const OwnedFd reader{::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)};
  ASSERT_GE(::fcntl(reader.get(), F_SETPIPE_SZ, PIPE_BUF), 0);
  std::string text;
  const auto read_all = [&] {
    std::array<char, PIPE_BUF> piece{};
    for (ssize_t count = 0; (count = ::read(reader.get(), piece.data(), piece.size())) > 0;)
      text.append(piece.data(), static_cast<std::size_t>(count));
  };
  Metrics metrics;
  add_to_all(metrics, 1'000'000'000'000'000'000);
  ASSERT_TRUE(sink->flush(metrics));
  const auto refused = sink->flush(metrics);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("metrics_path " + path), std::string::npos);
  read_all();
  ASSERT_EQ(text.find('\n'), std::string::npos) << "the first line fits: make it longer";
  for (int i = 0; i < 10; ++i) {
    static_cast<void>(sink->flush(metrics));
    read_all();
  }
  std::istringstream lines{text.substr(0, text.rfind('\n') + 1)};
  std::size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) EXPECT_TRUE(parse_json(line, "a line")) << line;
  EXPECT_GT(count, 2U);
}

}  // namespace
}  // namespace mayfly
