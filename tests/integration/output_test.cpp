// Log, metrics and console into FIFOs whose readers are slow, gone, or never came.

#include "tests/integration/kvm_required.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"
#include "vmm/base/json_value.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <sstream>

namespace mayfly::testing {
namespace {

class OutputTest : public KvmTest {
 protected:
  std::string fifo(const std::string& name) {
    const std::string path = monitor_.file(name);
    if (::mkfifo(path.c_str(), 0600) != 0) give_up("cannot make a FIFO " + path);
    return path;
  }
  void configure(const std::string& path, const std::string& body) {
    const HttpAnswer answer = monitor_.put(path, body);
    ASSERT_EQ(answer.status, 204) << answer.body;
  }
  HttpAnswer flush() { return monitor_.put("/actions", R"({"action_type": "FlushMetrics"})"); }
  /// What a reader finds who comes now, and goes again.
  static std::string read_all(const std::string& path) {
    const OwnedFd reader{::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)};
    std::string text;
    std::array<char, 4096> piece{};
    for (ssize_t count = 0; (count = ::read(reader.get(), piece.data(), piece.size())) > 0;)
      text.append(piece.data(), static_cast<std::size_t>(count));
    return text;
  }
  static std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream{text};
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
  }

  Monitor monitor_;
};

TEST_F(OutputTest, AMetricsFifoThatFillsUpIsToldAndANewReaderGetsWholeLines) {
  const std::string path = fifo("metrics");
  configure("/metrics", R"({"metrics_path": ")" + path + R"(", "emit_id": true})");
  monitor_.boot("spin");
  ASSERT_EQ(flush().status, 204);
  EXPECT_EQ(lines_of(read_all(path)).size(), 1U);  // and this reader is gone
  HttpAnswer refused;
  for (int i = 0; i < 1000 && refused.status != 400; ++i) refused = flush();
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("metrics_path " + path), std::string::npos) << refused.body;
  EXPECT_EQ(monitor_.patch("/vm", R"({"state": "Paused"})").status, 204);
  EXPECT_EQ(monitor_.patch("/vm", R"({"state": "Resumed"})").status, 204);
  std::string text = read_all(path);
  EXPECT_EQ(flush().status, 204);
  text += read_all(path);
  EXPECT_TRUE(text.ends_with('\n'));
  const auto lines = lines_of(text);
  EXPECT_GT(lines.size(), 2U);
  for (const std::string& line : lines) EXPECT_TRUE(parse_json(line, "a line")) << line;
  EXPECT_NE(lines.back().find(R"("missed_metrics_count":1)"), std::string::npos) << lines.back();
  monitor_.signal(SIGTERM);
  EXPECT_EQ(monitor_.wait(), 143);
}

TEST_F(OutputTest, ALogFifoThatFillsUpLosesLinesAndCountsThem) {
  const std::string path = fifo("log");
  configure("/logger", R"({"log_path": ")" + path + R"(", "level": "Info"})");
  monitor_.boot("spin");
  const auto missed = [&] {
    const std::string metrics = monitor_.get("/metrics/prometheus").body;
    return metrics.find("mayfly_logger_missed_log_count_total 0\n") == std::string::npos;
  };
  EXPECT_FALSE(missed());
  for (int i = 0; i < 5000 && (i % 100 != 0 || !missed()); ++i) {
    ASSERT_EQ(monitor_.patch("/vm", R"({"state": "Paused"})").status, 204);
    ASSERT_EQ(monitor_.patch("/vm", R"({"state": "Resumed"})").status, 204);
  }
  EXPECT_TRUE(missed());
  const std::string before = read_all(path);
  ASSERT_EQ(monitor_.patch("/vm", R"({"state": "Paused"})").status, 204);
  const std::string after = read_all(path);
  EXPECT_TRUE(before.ends_with('\n'));
  EXPECT_NE(after.find(":INFO] paused in "), std::string::npos) << after;
  const auto lines = lines_of(before + after);
  EXPECT_TRUE(lines.front().starts_with("Running Firecracker v")) << lines.front();
  for (std::size_t i = 1; i < lines.size(); ++i)
    EXPECT_NE(lines[i].find("Z [anonymous-instance:"), std::string::npos) << lines[i];
  monitor_.signal(SIGTERM);
  EXPECT_EQ(monitor_.wait(), 143);
}

TEST_F(OutputTest, AConsoleFifoThatNobodyReadsDoesNotStopTheGuest) {
  const std::string path = fifo("serial");
  configure("/serial", R"({"serial_out_path": ")" + path + "\"}");
  make_pipe_small(OwnedFd{::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)}.get());
  monitor_.boot("serial_flood", "bytes=8000");  // more than the fifo holds; and more than the monitor keeps: GuestTest
  EXPECT_EQ(monitor_.wait(), 0) << monitor_.log_until("");
}

TEST_F(OutputTest, AConsoleAndALogWithALimitKeepTheirNewestBytes) {
  constexpr off_t kBound = off_t{128} << 10;
  const std::string before(3 * std::size_t{kBound}, 'o');  // a guest would print that for a minute here
  const std::string console = make_file(monitor_.file("serial"), before);
  const std::string log = make_file(monitor_.file("log"), before);
  configure("/serial", R"({"serial_out_path": ")" + console + R"(", "max_bytes": 131072})");
  configure("/logger", R"({"log_path": ")" + log + R"(", "level": "Info"})");
  configure("/logger", R"({"max_bytes": 131072})");
  monitor_.boot("serial_flood", "console=ttyS0 bytes=1000000000000 string=1");
  const auto is_trimmed = [&](const std::string& path) {
    struct stat status{};
    return ::stat(path.c_str(), &status) == 0 && status.st_size > 3 * kBound && status.st_blocks * 512 <= kBound;
  };
  for (const double deadline = now_us() + 60e6; !is_trimmed(console) || !is_trimmed(log);) {
    ASSERT_LT(now_us(), deadline);
    // Each writes a line.
    ASSERT_EQ(monitor_.patch("/vm", R"({"state": "Paused"})").status, 204);
    ASSERT_EQ(monitor_.patch("/vm", R"({"state": "Resumed"})").status, 204);
  }
  monitor_.signal(SIGTERM);
  EXPECT_EQ(monitor_.wait(), 143);
  EXPECT_TRUE(content_of(log).contains("told to stop (SIGTERM)")) << "the newest is there";
  EXPECT_TRUE(is_trimmed(console) && is_trimmed(log));
}

TEST_F(OutputTest, ALimitIsForRegularFiles) {
  const std::string path = fifo("serial");
  const HttpAnswer serial = monitor_.put("/serial", R"({"serial_out_path": ")" + path + R"(", "max_bytes": 131072})");
  EXPECT_EQ(serial.status, 400);
  EXPECT_NE(serial.body.find("max_bytes needs a regular file, whose oldest bytes can be freed; " + path + " is none"),
            std::string::npos)
      << serial.body;
  EXPECT_EQ(monitor_.put("/logger", R"({"max_bytes": 131072})").status, 400) << "standard error is a pipe here";
}

TEST_F(OutputTest, NothingIsWrittenThroughALink) {
  const std::string target = monitor_.file("target");
  const std::string link = monitor_.file("link");
  ASSERT_EQ(::symlink(target.c_str(), link.c_str()), 0);
  for (const char* const name : {"/logger log_path", "/metrics metrics_path", "/serial serial_out_path"}) {
    const std::string words = name;
    const std::size_t space = words.find(' ');
    const HttpAnswer answer =
        monitor_.put(words.substr(0, space), R"({")" + words.substr(space + 1) + R"(": ")" + link + "\"}");
    EXPECT_EQ(answer.status, 400) << name;
    EXPECT_NE(answer.body.find("is a link"), std::string::npos) << answer.body;
  }
  EXPECT_EQ(::access(target.c_str(), F_OK), -1);
}

}  // namespace
}  // namespace mayfly::testing
