#pragma once

#include "tests/unit/virtio/mmds/fake_guest.h"
#include "virtio/mmds/network_stack.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly::testing {

inline constexpr std::uint64_t kMillisecond = 1'000'000;
inline constexpr std::uint64_t kSecond = 1'000'000'000;

inline std::string get_request(std::string_view path, std::string_view fields = "") {
  return "GET " + std::string{path} + " HTTP/1.1\r\nHost: 169.254.169.254\r\n" + std::string{fields} + "\r\n";
}

/// A stack with metadata, and a wire to it. Time passes only where a test says so.
class StackTest : public ::testing::Test {
 protected:
  StackTest() {
    put(R"({"latest":{"meta-data":{"ami-id":"ami-1"},"big":")" + big() + R"("}})");
    make_stack();
  }

  static std::string big() {
    std::string text;
    for (int i = 0; text.size() < 40'000; ++i) text += std::to_string(i) + ',';
    return text;
  }
  void put(std::string_view text) {
    auto json = parse_json(text, "the data");
    ASSERT_TRUE(json && store_.put(std::move(*json)));
  }
  void make_stack() {
    service_ = std::make_unique<MetadataService>(
        config_, store_, MetadataService::Identity{SessionTokens{SipKey{1}, 0}, 0x5EED}, metrics_);
    stack_ = std::make_unique<NetworkStack>(*service_, key_, metrics_);
  }

  void give(const Frame& frame, TcpChecksum checksum = TcpChecksum::Complete) {
    ASSERT_TRUE(stack_->claims(std::span{frame}.first(std::min(frame.size(), kFrameHeadLength))));
    // As big as the frame, so that a sanitizer sees a step beyond its end.
    stack_->receive(Frame(frame), checksum, now_ns_);
  }
  void give(const std::vector<Frame>& frames) {
    for (const Frame& frame : frames) give(frame);
  }
  /// All frames that the stack has now.
  std::vector<Frame> take_frames() {
    std::vector<Frame> frames;
    while (stack_->ready()) {
      Frame frame(FrameResponder::kLongestTransmitted);
      const std::size_t length = stack_->transmit(std::span<std::uint8_t, FrameResponder::kLongestTransmitted>{frame});
      EXPECT_GT(length, 0U);
      frame.resize(length);
      frames.push_back(std::move(frame));
      if (frames.size() > 10'000) {
        ADD_FAILURE() << "there is no end to its frames";
        break;
      }
    }
    return frames;
  }
  std::vector<ServiceSegment> take() {
    std::vector<ServiceSegment> segments;
    for (const Frame& frame : take_frames()) {
      auto segment = read_service_segment(frame);
      EXPECT_TRUE(segment);
      if (segment) segments.push_back(std::move(*segment));
    }
    return segments;
  }
  /// The one segment that there is.
  ServiceSegment take_one() {
    auto segments = take();
    EXPECT_EQ(segments.size(), 1U);
    return segments.empty() ? ServiceSegment{} : segments.front();
  }

  /// Exchanges frames until both are silent; `lose` says of each, in turn, whether it gets lost.
  void exchange(
      TcpClient& client, std::vector<Frame> frames, const std::function<bool()>& lose = [] { return false; }) {
    for (int round = 0; round < 10'000; ++round) {
      for (const Frame& frame : std::exchange(frames, {}))
        if (!lose()) give(frame);
      for (const ServiceSegment& segment : take()) {
        if (segment.destination_port != client.port() || lose()) continue;
        for (Frame& answer : client.take(segment)) frames.push_back(std::move(answer));
      }
      if (frames.empty()) return;
    }
    ADD_FAILURE() << "they do not come to rest";
  }
  void connect(TcpClient& client) {
    exchange(client, client.resend());
    ASSERT_TRUE(client.open());
  }
  /// Lets time pass up to the stack's next deadline.
  bool pass_time() {
    const auto deadline = stack_->deadline();
    if (!deadline) return false;
    now_ns_ = std::max(now_ns_, *deadline);
    stack_->on_time(now_ns_);
    return true;
  }
  static std::string body_of(std::string_view answer) {
    const std::size_t end = answer.find("\r\n\r\n");
    return end == std::string_view::npos ? "" : std::string{answer.substr(end + 4)};
  }

  MmdsConfig config_;
  MetadataStore store_;
  MmdsMetrics metrics_;
  SipKey key_{};
  std::uint64_t now_ns_ = 100 * kSecond;
  std::unique_ptr<MetadataService> service_;
  std::unique_ptr<NetworkStack> stack_;
};

}  // namespace mayfly::testing
