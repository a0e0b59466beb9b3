#include "virtio/mmds/network_stack.h"

#include "tests/unit/virtio/mmds/stack_fixture.h"

namespace mayfly::testing {
namespace {

using NetworkStackTest = StackTest;

TEST_F(NetworkStackTest, AnswersArpForItsAddress) {
  give(arp_frame());
  const auto frames = take_frames();
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(frames[0].size(), 42U);
  EXPECT_TRUE(std::equal(kGuestMac.begin(), kGuestMac.end(), frames[0].begin()));
  EXPECT_TRUE(std::equal(NetworkStack::kMac.begin(), NetworkStack::kMac.end(), frames[0].begin() + 22));
  EXPECT_EQ(get16(frames[0], 20), 2U);
  EXPECT_FALSE(stack_->ready());
}

TEST_F(NetworkStackTest, ManyArpRequestsAreOneAnswer) {
  for (int i = 0; i < 1000; ++i) give(arp_frame());
  EXPECT_EQ(take_frames().size(), 1U);
  give(arp_frame(kServiceIp, 2));  // a reply is taken and answered by nothing
  EXPECT_TRUE(take_frames().empty());
  EXPECT_EQ(metrics_.rx_accepted_err.value(), 1U);
}

TEST_F(NetworkStackTest, ServesARequestFromHandshakeToEnd) {
  TcpClient client{40000};
  connect(client);
  EXPECT_EQ(stack_->connection_count(), 1U);
  exchange(client, client.send(get_request("/latest/meta-data/ami-id", "Connection: close\r\n")));
  EXPECT_TRUE(client.received().starts_with("HTTP/1.1 200 OK\r\n")) << client.received();
  EXPECT_EQ(body_of(client.received()), "ami-1");
  EXPECT_TRUE(client.saw_end());
  EXPECT_TRUE(client.all_acknowledged());
  exchange(client, client.finish());
  EXPECT_TRUE(client.all_acknowledged());
  EXPECT_FALSE(client.was_reset());
  EXPECT_EQ(stack_->connection_count(), 0U);
  EXPECT_EQ(stack_->deadline(), std::nullopt);
  EXPECT_EQ(metrics_.connections_created.value(), 1U);
  EXPECT_EQ(metrics_.connections_destroyed.value(), 1U);
}

TEST_F(NetworkStackTest, TheHandshakeSaysWhatWeTake) {
  TcpClient client{40000, 0xFFFFFFFF};
  give(client.resend());
  const ServiceSegment answer = take_one();
  EXPECT_EQ(answer.flags, kSyn | kAck);
  EXPECT_EQ(answer.acknowledgment, 0U);
  EXPECT_EQ(answer.window, TcpConnection::kReceiveBytes);
  EXPECT_EQ(answer.maximum_segment, 1460U);
}

TEST_F(NetworkStackTest, AConnectionServesOneRequestAfterTheOther) {
  TcpClient client{40000};
  connect(client);
  for (int i = 1; i <= 20; ++i) {
    exchange(client, client.send(get_request("/latest/meta-data/ami-id")));
    std::size_t answers = 0;
    for (std::size_t at = 0; (at = client.received().find("ami-1", at)) != std::string::npos; ++at) ++answers;
    EXPECT_EQ(answers, static_cast<std::size_t>(i));
  }
  EXPECT_EQ(stack_->deadline(), std::nullopt);  // an idle connection costs nothing
  exchange(client, client.finish());
  EXPECT_TRUE(client.saw_end());
  EXPECT_EQ(stack_->connection_count(), 0U);
}

TEST_F(NetworkStackTest, RequestsMayComeAllAtOnce) {
  TcpClient client{40000};
  connect(client);
  std::string requests;
  for (int i = 0; i < 100; ++i) requests += get_request("/latest/meta-data/ami-id");  // more than the window holds
  exchange(client, client.send(requests));
  for (int i = 0; i < 100 && !client.all_acknowledged(); ++i) exchange(client, client.resend());
  exchange(client, client.finish());
  std::size_t answers = 0;
  for (std::size_t at = 0; (at = client.received().find("ami-1", at)) != std::string::npos; ++at) ++answers;
  EXPECT_EQ(answers, 100U);
  EXPECT_TRUE(client.saw_end());
}

TEST_F(NetworkStackTest, ARequestMayComeByteByByte) {
  TcpClient client{40000};
  client.segment_length = 1;
  connect(client);
  exchange(client, client.send(get_request("/latest/meta-data/ami-id")));
  EXPECT_EQ(body_of(client.received()), "ami-1");
}

TEST_F(NetworkStackTest, ARequestMayComeUnsegmentedAndWithoutAChecksum) {
  TcpClient client{40000};
  client.segment_length = 65'535;
  connect(client);
  const std::string request = get_request("/latest/meta-data/ami-id", "X: " + std::string(3000, 'x') + "\r\n");
  auto frames = client.send(request);
  ASSERT_EQ(frames.size(), 1U);
  set16(frames[0], 50, 0xBEEF);
  give(frames[0]);
  EXPECT_TRUE(take().empty());  // as if it had been lost
  give(frames[0], TcpChecksum::LeftToUs);
  exchange(client, {});
  EXPECT_EQ(body_of(client.received()), "ami-1");
}

TEST_F(NetworkStackTest, ALongAnswerIsCutIntoSegmentsThatTheGuestTakes) {
  for (const std::uint16_t size : {std::uint16_t{1460}, std::uint16_t{536}, std::uint16_t{100}, std::uint16_t{1}}) {
    TcpClient client{static_cast<std::uint16_t>(40000 + size)};
    client.maximum_segment = size;
    connect(client);
    give(client.send(get_request("/latest/big")));
    std::vector<Frame> frames;
    for (const ServiceSegment& segment : take()) {
      EXPECT_LE(segment.payload.size(), std::max(size, TcpConnection::kMinimumSegment));
      for (Frame& frame : client.take(segment)) frames.push_back(std::move(frame));
    }
    exchange(client, frames);
    EXPECT_EQ(body_of(client.received()), big()) << size;
  }
}

TEST_F(NetworkStackTest, ASynWithoutASegmentSizeMeansTheSmallestThatEverybodyTakes) {
  GuestSegment syn{.sequence = 10, .flags = kSyn};
  give(frame_of(syn));
  const ServiceSegment answer = take_one();
  GuestSegment request{.sequence = 11, .acknowledgment = answer.sequence + 1, .payload = get_request("/latest/big")};
  give(frame_of(request));
  const auto segments = take();
  ASSERT_GT(segments.size(), 10U);
  EXPECT_EQ(segments.front().payload.size(), 536U);
}

TEST_F(NetworkStackTest, TheGuestsWindowIsKept) {
  TcpClient client{40000};
  client.window = 3000;
  connect(client);
  give(client.send(get_request("/latest/big")));
  std::size_t sent = 0;
  for (const ServiceSegment& segment : take()) sent += segment.payload.size();
  EXPECT_LE(sent, 3000U);
  EXPECT_GE(sent, 1460U);
  exchange(client, {client.acknowledgment()});
  for (int i = 0; i < 1000 && body_of(client.received()) != big(); ++i) {
    ASSERT_TRUE(pass_time());
    exchange(client, {});
  }
  EXPECT_EQ(body_of(client.received()), big());
}

TEST_F(NetworkStackTest, AShutWindowIsProbedAndAnOpenedOneUsed) {
  TcpClient client{40000};
  connect(client);
  client.window = 0;
  give(client.send(get_request("/latest/meta-data/ami-id")));
  const ServiceSegment acknowledgment = take_one();
  EXPECT_EQ(acknowledgment.payload, "");
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(pass_time());
    const ServiceSegment probe = take_one();
    EXPECT_EQ(probe.payload, "H");
    give(client.acknowledgment());  // still shut, and the byte not taken
    EXPECT_TRUE(take().empty());
  }
  client.window = 65535;
  exchange(client, {client.acknowledgment()});
  EXPECT_EQ(body_of(client.received()), "ami-1");
}

TEST_F(NetworkStackTest, WhoNeverTakesAnAnswerIsResetInTheEnd) {
  TcpClient client{40000};
  connect(client);
  client.window = 0;
  give(client.send(get_request("/latest/meta-data/ami-id")));
  bool reset = false;
  for (unsigned i = 0; i < 20 && !reset; ++i) {
    for (const ServiceSegment& segment : take()) reset = reset || segment.has(kRst);
    if (!reset) give(client.acknowledgment());
    pass_time();
  }
  EXPECT_TRUE(reset);
  EXPECT_EQ(stack_->connection_count(), 0U);
  EXPECT_LT(now_ns_, 300 * kSecond);
}

TEST_F(NetworkStackTest, WhatIsLostIsSentAgain) {
  TcpClient client{40000};
  connect(client);
  give(client.send(get_request("/latest/meta-data/ami-id")));
  const auto lost = take();
  ASSERT_FALSE(lost.empty());
  EXPECT_TRUE(take().empty());
  ASSERT_TRUE(pass_time());
  const auto again = take();
  ASSERT_EQ(again.size(), lost.size());
  EXPECT_EQ(again[0].sequence, lost[0].sequence);
  EXPECT_EQ(again[0].payload, lost[0].payload);
  std::vector<Frame> answers;
  for (const auto& segment : again)
    for (Frame& frame : client.take(segment)) answers.push_back(std::move(frame));
  exchange(client, answers);
  EXPECT_EQ(body_of(client.received()), "ami-1");
  EXPECT_EQ(stack_->deadline(), std::nullopt);
}

TEST_F(NetworkStackTest, EachFurtherTryTakesTwiceAsLong) {
  TcpClient client{40000};
  give(client.resend());
  std::uint64_t before = now_ns_;
  for (unsigned i = 0; i < TcpConnection::kAttempts; ++i) {
    EXPECT_EQ(take_one().flags, kSyn | kAck);
    ASSERT_TRUE(pass_time());
    EXPECT_EQ(now_ns_ - before, TcpConnection::kTimeoutNs << i);
    before = now_ns_;
  }
  EXPECT_EQ(take_one().flags, kSyn | kAck);
  ASSERT_TRUE(pass_time());
  EXPECT_TRUE(take_one().has(kRst));
  EXPECT_EQ(stack_->connection_count(), 0U);
}

TEST_F(NetworkStackTest, NoTimePassesForAConnectionWhileTheGuestStandsStill) {
  TcpClient client{40000};
  connect(client);
  give(client.send(get_request("/latest/meta-data/ami-id")));
  const auto answer = take();
  const auto deadline = stack_->deadline();
  ASSERT_TRUE(deadline);
  const std::uint64_t since = now_ns_;
  now_ns_ += 600 * kSecond;
  stack_->stood_still(since, now_ns_);
  EXPECT_EQ(stack_->deadline(), *deadline + 600 * kSecond);
  stack_->on_time(now_ns_);
  EXPECT_TRUE(take().empty());
  std::vector<Frame> frames;
  for (const auto& segment : answer)
    for (Frame& frame : client.take(segment)) frames.push_back(std::move(frame));
  exchange(client, frames);
  EXPECT_EQ(body_of(client.received()), "ami-1");
  EXPECT_FALSE(client.was_reset());
  EXPECT_EQ(stack_->connection_count(), 1U);
}

TEST_F(NetworkStackTest, ConnectionsDoNotGrowStaleWhileTheGuestStandsStill) {
  const std::uint64_t since = now_ns_;
  std::vector<TcpClient> clients;
  for (std::uint16_t i = 0; i < NetworkStack::kConnections; ++i) {
    clients.emplace_back(static_cast<std::uint16_t>(40000 + i));
    connect(clients.back());
    now_ns_ += kMillisecond;  // most of them are heard while it stands still already
  }
  now_ns_ += 600 * kSecond;
  stack_->stood_still(since, now_ns_);
  TcpClient late{50000};
  give(late.resend());
  EXPECT_TRUE(take().empty());
  now_ns_ += NetworkStack::kStaleNs;
  connect(late);
}

TEST_F(NetworkStackTest, ALateSynIsAnsweredAgain) {
  TcpClient client{40000};
  give(client.resend());
  const ServiceSegment first = take_one();
  give(client.resend());
  const ServiceSegment second = take_one();
  EXPECT_EQ(second.flags, kSyn | kAck);
  EXPECT_EQ(second.sequence, first.sequence);
  EXPECT_EQ(stack_->connection_count(), 1U);
}

TEST_F(NetworkStackTest, WhatComesOutOfOrderOrTwiceIsTakenOnce) {
  TcpClient client{40000};
  client.segment_length = 20;
  connect(client);
  auto frames = client.send(get_request("/latest/meta-data/ami-id"));
  ASSERT_GE(frames.size(), 3U);
  std::ranges::reverse(frames);
  give(frames);  // each but the last asks for what is missing
  EXPECT_EQ(take_one().acknowledgment, client.unacknowledged() + 20);
  std::ranges::reverse(frames);
  give(frames);
  give(frames);
  exchange(client, {});
  EXPECT_EQ(body_of(client.received()), "ami-1");
  EXPECT_EQ(client.received().find("HTTP/1.1"), client.received().rfind("HTTP/1.1"));
}

TEST_F(NetworkStackTest, SegmentsThatOverlapAreTakenOnce) {
  TcpClient client{40000};
  connect(client);
  const std::string request = get_request("/latest/meta-data/ami-id");
  for (std::size_t end = 7; end < request.size() + 7; end += 7) {
    GuestSegment segment{.sequence = client.sequence(), .acknowledgment = client.expected()};
    segment.payload = request.substr(0, end);  // always from the begin
    give(frame_of(segment));
  }
  std::string answer;
  for (const ServiceSegment& segment : take()) answer += segment.payload;
  EXPECT_EQ(body_of(answer), "ami-1");
}

TEST_F(NetworkStackTest, SequenceNumbersMayWrapOnBothSides) {
  for (std::uint8_t i = 0; i < 200; ++i) {
    key_[0] = i;
    make_stack();
    TcpClient client{40000, 0xFFFFFFFFU - i};
    client.segment_length = 30;
    connect(client);
    exchange(client, client.send(get_request("/latest/big")));
    ASSERT_EQ(body_of(client.received()), big());
    exchange(client, client.finish());
    ASSERT_EQ(stack_->connection_count(), 0U);
  }
}

TEST_F(NetworkStackTest, OurSequenceNumbersMayWrapInAnAnswer) {
  put(R"({"big":")" + std::string(50'000, 'x') + R"("})");
  // A key whose first number lies less than an answer before the wrap.
  for (std::uint32_t i = 0;; ++i) {
    ASSERT_LT(i, 10'000'000U);
    for (unsigned byte = 0; byte < 4; ++byte) key_[byte] = static_cast<std::uint8_t>(i >> (8 * byte));
    const std::array<std::uint8_t, 8> first{};
    const SipTag tag = siphash(key_, first);
    if (tag[0] == 0xFF && tag[1] == 0xFF && tag[2] > 0x80) break;
  }
  make_stack();
  TcpClient client{40000};
  connect(client);
  EXPECT_GT(client.expected(), 0xFFFF8000U);
  exchange(client, client.send(get_request("/big", "Connection: close\r\n")));
  EXPECT_EQ(body_of(client.received()).size(), 50'000U);
  EXPECT_LT(client.expected(), 0x10000U);
  EXPECT_TRUE(client.saw_end());
  exchange(client, client.finish());
  EXPECT_EQ(stack_->connection_count(), 0U);
}

TEST_F(NetworkStackTest, ATransferSurvivesHeavyLossInBothDirections) {
  for (std::uint32_t seed = 1; seed <= 30; ++seed) {
    std::uint32_t random = seed;
    const auto lose = [&random] {
      random = random * 1664525 + 1013904223;
      return random >> 24 < 64;  // a quarter
    };
    make_stack();
    TcpClient client{static_cast<std::uint16_t>(40000 + seed), 0xFFFFFF00U};
    client.segment_length = 40;
    client.window = 8000;
    exchange(client, client.resend(), lose);
    exchange(client, client.send(get_request("/latest/big", "Connection: close\r\n")), lose);
    for (int i = 0; i < 1000 && !client.saw_end(); ++i) {
      exchange(client, client.resend(), lose);
      pass_time();
      exchange(client, {}, lose);
    }
    ASSERT_EQ(body_of(client.received()), big()) << seed;
    exchange(client, client.finish(), lose);
    for (int i = 0; i < 100 && !client.all_acknowledged() && !client.was_reset(); ++i)
      exchange(client, client.resend(), lose);
    pass_time();
    pass_time();
    exchange(client, {});
  }
}

TEST_F(NetworkStackTest, APeerThatFinishesFirstStillGetsItsAnswer) {
  TcpClient client{40000};
  connect(client);
  auto frames = client.send(get_request("/latest/big"));
  for (Frame& frame : client.finish()) frames.push_back(std::move(frame));
  exchange(client, frames);
  EXPECT_EQ(body_of(client.received()), big());
  EXPECT_TRUE(client.saw_end());
  EXPECT_FALSE(client.was_reset());
  EXPECT_EQ(stack_->connection_count(), 0U);
}

TEST_F(NetworkStackTest, APeerThatNeverFinishesIsForgotten) {
  TcpClient client{40000};
  connect(client);
  exchange(client, client.send(get_request("/latest/meta-data/ami-id", "Connection: close\r\n")));
  ASSERT_TRUE(client.saw_end());
  EXPECT_EQ(stack_->connection_count(), 1U);
  ASSERT_TRUE(pass_time());
  EXPECT_EQ(stack_->connection_count(), 0U);
  EXPECT_FALSE(stack_->ready());
  exchange(client, client.finish());
  EXPECT_TRUE(client.was_reset());
}

TEST_F(NetworkStackTest, WhatComesAfterTheLastAnswerIsAcknowledgedAndDropped) {
  TcpClient client{40000};
  connect(client);
  exchange(client, client.send("nonsense\r\n\r\n"));
  EXPECT_TRUE(client.received().starts_with("HTTP/1.1 400 "));
  exchange(client, client.send(std::string(20'000, 'x')));
  EXPECT_TRUE(client.all_acknowledged());
  exchange(client, client.finish());
  EXPECT_EQ(stack_->connection_count(), 0U);
  EXPECT_FALSE(client.was_reset());
}

TEST_F(NetworkStackTest, ARequestThatNeverEndsIsRefused) {
  TcpClient client{40000};
  connect(client);
  exchange(client, client.send("GET /" + std::string(10'000, 'x')));
  EXPECT_TRUE(client.received().starts_with("HTTP/1.1 413 ")) << client.received().substr(0, 20);
  EXPECT_TRUE(client.saw_end());
}

TEST_F(NetworkStackTest, AResetEndsAConnectionOnlyWhereItIsExpected) {
  TcpClient client{40000};
  connect(client);
  GuestSegment reset{.sequence = client.sequence() + 1, .flags = kRst};
  give(frame_of(reset));
  EXPECT_EQ(take_one().flags, kAck);  // is that so?
  EXPECT_EQ(stack_->connection_count(), 1U);
  reset.sequence = client.sequence() + 100'000;
  give(frame_of(reset));
  EXPECT_TRUE(take().empty());
  give(client.reset());
  EXPECT_EQ(stack_->connection_count(), 0U);
  EXPECT_TRUE(take().empty());
}

TEST_F(NetworkStackTest, ASynInAConnectionIsQuestioned) {
  TcpClient client{40000};
  connect(client);
  give(frame_of({.sequence = client.sequence() + 5, .flags = kSyn}));
  const ServiceSegment answer = take_one();
  EXPECT_EQ(answer.flags, kAck);
  EXPECT_EQ(answer.acknowledgment, client.sequence());
}

TEST_F(NetworkStackTest, WhatBelongsToNoConnectionIsReset) {
  give(frame_of({.sequence = 5, .acknowledgment = 77, .payload = "abc"}));
  ServiceSegment reset = take_one();
  EXPECT_EQ(reset.flags, kRst);
  EXPECT_EQ(reset.sequence, 77U);
  give(frame_of({.destination_port = 81, .sequence = 5, .flags = kSyn}));
  reset = take_one();
  EXPECT_EQ(reset.flags, kRst | kAck);
  EXPECT_EQ(reset.acknowledgment, 6U);
  EXPECT_EQ(reset.source_port, 81);
  give(frame_of({.sequence = 5, .flags = kFin, .payload = "ab"}));
  reset = take_one();
  EXPECT_EQ(reset.acknowledgment, 8U);
  give(frame_of({.sequence = 5, .flags = kRst}));
  EXPECT_TRUE(take().empty());
  give(frame_of({.destination_port = 81, .flags = kRst | kAck}));
  EXPECT_TRUE(take().empty());
}

TEST_F(NetworkStackTest, RefusalsThatNobodyTakesDoNotPileUp) {
  for (std::uint16_t i = 0; i < 1000; ++i) give(frame_of({.source_port = static_cast<std::uint16_t>(1000 + i)}));
  EXPECT_EQ(take().size(), NetworkStack::kResets);
}

TEST_F(NetworkStackTest, ManyConnectionsAreServedSideBySide) {
  std::vector<TcpClient> clients;
  for (std::uint16_t i = 0; i < NetworkStack::kConnections; ++i)
    clients.emplace_back(static_cast<std::uint16_t>(40000 + i));
  for (TcpClient& client : clients) connect(client);
  for (TcpClient& client : clients) give(client.send(get_request("/latest/big")));
  for (int round = 0; round < 1000; ++round) {
    const auto segments = take();
    if (segments.empty()) break;
    for (const ServiceSegment& segment : segments) give(clients[segment.destination_port - 40000U].take(segment));
  }
  for (TcpClient& client : clients) EXPECT_EQ(body_of(client.received()), big());
}

TEST_F(NetworkStackTest, WithoutRoomASynIsLostUntilAStaleConnectionMakesRoom) {
  std::vector<TcpClient> clients;
  for (std::uint16_t i = 0; i < NetworkStack::kConnections; ++i) {
    clients.emplace_back(static_cast<std::uint16_t>(40000 + i));
    connect(clients.back());
    now_ns_ += kMillisecond;
  }
  TcpClient late{50000};
  give(late.resend());
  EXPECT_TRUE(take().empty());
  now_ns_ += NetworkStack::kStaleNs;
  connect(late);
  EXPECT_EQ(stack_->connection_count(), NetworkStack::kConnections);
  EXPECT_EQ(metrics_.connections_destroyed.value(), 1U);
  exchange(clients[0], clients[0].send(get_request("/latest")));
  EXPECT_TRUE(clients[0].was_reset());  // the one that had been silent for longest
  exchange(clients[1], clients[1].send(get_request("/latest/meta-data/ami-id")));
  EXPECT_EQ(body_of(clients[1].received()), "ami-1");
}

TEST_F(NetworkStackTest, AFloodOfSynsTakesNoMoreThanItsPlaces) {
  for (std::uint16_t i = 0; i < 5000; ++i) {
    GuestSegment syn{.source_port = static_cast<std::uint16_t>(1000 + i), .sequence = i, .flags = kSyn};
    syn.source[3] = static_cast<std::uint8_t>(1 + i % 200);
    give(frame_of(syn));
  }
  EXPECT_EQ(stack_->connection_count(), NetworkStack::kConnections);
  EXPECT_EQ(take().size(), NetworkStack::kConnections);
  for (int i = 0; i < 100 && stack_->connection_count() > 0; ++i) {
    pass_time();
    take();
  }
  EXPECT_EQ(stack_->connection_count(), 0U);
}

TEST_F(NetworkStackTest, FirstSequenceNumbersAreNotAlike) {
  std::vector<std::uint32_t> numbers;
  for (std::uint16_t i = 0; i < NetworkStack::kConnections; ++i) {
    give(frame_of({.source_port = static_cast<std::uint16_t>(1000 + i), .flags = kSyn}));
    numbers.push_back(take_one().sequence);
  }
  std::ranges::sort(numbers);
  EXPECT_EQ(std::ranges::adjacent_find(numbers), numbers.end());
}

TEST_F(NetworkStackTest, AcknowledgmentsOfWhatWasNeverSentAreNotBelieved) {
  TcpClient client{40000};
  connect(client);
  give(client.send(get_request("/latest/meta-data/ami-id")));
  const auto answer = take();
  for (const std::uint32_t lie : {1U, 1000U, 0x7FFFFFFFU}) {
    const std::uint32_t sent = client.expected() + static_cast<std::uint32_t>(answer.back().payload.size());
    give(frame_of({.sequence = client.sequence(), .acknowledgment = sent + lie}));
    EXPECT_EQ(take_one().flags, kAck) << lie;
  }
  ASSERT_TRUE(pass_time());
  EXPECT_EQ(take_one().payload, answer.back().payload);
}

TEST_F(NetworkStackTest, AResetOfTheDriverForgetsEverything) {
  TcpClient client{40000};
  connect(client);
  give(arp_frame());
  give(frame_of({.source_port = 1}));
  give(client.send(get_request("/latest/big")));
  stack_->reset();
  EXPECT_FALSE(stack_->ready());
  EXPECT_EQ(stack_->deadline(), std::nullopt);
  EXPECT_EQ(stack_->connection_count(), 0U);
  EXPECT_EQ(metrics_.connections_destroyed.value(), 1U);
}

TEST_F(NetworkStackTest, ASessionWithATokenReadsMetadata) {
  config_.version = MmdsVersion::V2;
  make_stack();
  TcpClient client{40000};
  connect(client);
  exchange(client, client.send("PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n"));
  const std::string token = body_of(client.received());
  ASSERT_EQ(token.size(), 48U);
  TcpClient reader{40001};
  connect(reader);
  exchange(reader, reader.send(get_request("/latest/meta-data/ami-id", "X-metadata-token: " + token + "\r\n")));
  EXPECT_EQ(body_of(reader.received()), "ami-1");
  TcpClient stranger{40002};
  connect(stranger);
  exchange(stranger, stranger.send(get_request("/latest/meta-data/ami-id")));
  EXPECT_TRUE(stranger.received().starts_with("HTTP/1.1 401 "));
}

// --- Hostile frames --------------------------------------------------------------------------------------------------

TEST_F(NetworkStackTest, EveryTruncationOfAFrameIsHarmless) {
  TcpClient client{40000};
  connect(client);
  const auto frames = client.send(get_request("/latest/meta-data/ami-id"));
  for (std::size_t length = 0; length < frames[0].size(); ++length) {
    const Frame part(frames[0].begin(), frames[0].begin() + static_cast<std::ptrdiff_t>(length));
    stack_->receive(part, TcpChecksum::LeftToUs, now_ns_);
    EXPECT_TRUE(take().empty()) << length;
  }
  exchange(client, frames);
  EXPECT_EQ(body_of(client.received()), "ami-1");
}

TEST_F(NetworkStackTest, FramesThatAreTooLongAreDropped) {
  GuestSegment segment{.payload = std::string(FrameResponder::kLongestReceived - 53, 'x')};
  give(frame_of(segment));
  EXPECT_TRUE(take().empty());
  segment.payload.pop_back();
  give(frame_of(segment));
  EXPECT_EQ(take_one().flags, kRst);
  EXPECT_EQ(metrics_.rx_accepted_err.value(), 1U);
}

TEST_F(NetworkStackTest, FragmentsAndOtherProtocolsAreTakenAndDropped) {
  give(frame_of({.fragment = 0x2000}));
  give(frame_of({.fragment = 5}));
  give(frame_of({.protocol = 1}));
  give(frame_of({.protocol = 17}));
  EXPECT_TRUE(take().empty());
  EXPECT_EQ(metrics_.rx_count.value(), 4U);
  EXPECT_EQ(metrics_.rx_accepted_err.value(), 4U);
}

TEST_F(NetworkStackTest, AnyFlagsInAnyStateLeaveItServing) {
  for (unsigned state = 0; state < 4; ++state) {
    for (unsigned flags = 0; flags < 256; ++flags) {
      for (const std::int64_t offset : {-70'000LL, -1LL, 0LL, 1LL, 4096LL, 70'000LL, 0x80000000LL}) {
        stack_->reset();
        TcpClient client{40000};
        if (state > 0) connect(client);
        if (state > 1)
          give(client.send(get_request("/latest/meta-data/ami-id", state > 2 ? "Connection: close\r\n" : "")));
        if (state > 2) take();
        give(frame_of({.sequence = client.sequence() + static_cast<std::uint32_t>(offset),
                       .acknowledgment = client.expected() + static_cast<std::uint32_t>(offset),
                       .flags = static_cast<std::uint8_t>(flags),
                       .window = static_cast<std::uint16_t>(offset),
                       .payload = "xyz"}));
        take();
        for (int i = 0; i < 3; ++i) {
          pass_time();
          take();
        }
        ASSERT_LE(stack_->connection_count(), 1U);
      }
    }
  }
  stack_->reset();
  TcpClient client{40000};
  connect(client);
  exchange(client, client.send(get_request("/latest/meta-data/ami-id")));
  EXPECT_EQ(body_of(client.received()), "ami-1");
}

}  // namespace
}  // namespace mayfly::testing
