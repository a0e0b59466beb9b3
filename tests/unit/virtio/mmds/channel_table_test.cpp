#include "virtio/mmds/channel_table.h"

#include "tests/unit/virtio/mmds/fake_streams.h"
#include "tests/unit/virtio/mmds/stack_fixture.h"

namespace mayfly::testing {
namespace {

constexpr std::uint16_t kChannel = 1000;

class ChannelTableTest : public StackTest {
 protected:
  ChannelTableTest() { serve(); }
  void serve() {
    auto streams = std::make_unique<FakeStreams>();
    streams_ = streams.get();
    stack_->serve_channels(std::move(streams), channel_metrics_);
  }
  FakeStream& host(std::size_t number = 0) { return streams_->streams[number]; }
  /// What a host's news does.
  void news(TcpClient& client) {
    stack_->on_news(now_ns_);
    exchange(client, {});
  }
  static TcpClient client_at(std::uint16_t port) {
    TcpClient client{port};
    client.service_port = kChannel;
    return client;
  }
  void expect_metadata() {
    TcpClient client{50'000};
    connect(client);
    exchange(client, client.send(get_request("/latest/meta-data/ami-id", "Connection: close\r\n")));
    EXPECT_EQ(body_of(client.received()), "ami-1");
    exchange(client, client.finish());
  }
  static std::string pattern(std::size_t length) {
    std::string text;
    for (std::size_t i = 0; text.size() < length; ++i) text += std::to_string(i) + ',';
    text.resize(length);
    return text;
  }

  ChannelMetrics channel_metrics_;
  FakeStreams* streams_ = nullptr;
};

TEST_F(ChannelTableTest, BytesGoBothWaysAndTheEndsEachByItself) {
  TcpClient client = client_at(40'000);
  connect(client);
  exchange(client, client.send("question"));
  EXPECT_EQ(host().from_guest, "question");
  host().say("answer");
  news(client);
  EXPECT_EQ(client.received(), "answer");
  host().host_ended = true;  // half-closed: the guest goes on
  news(client);
  EXPECT_TRUE(client.saw_end());
  for (int i = 0; i < 100; ++i) {
    now_ns_ += 60 * kSecond;  // for as long as it likes
    stack_->on_time(now_ns_);
    exchange(client, client.send("more"));
  }
  EXPECT_EQ(host().from_guest.size(), 8U + 400U);
  EXPECT_FALSE(host().guest_finished);
  exchange(client, client.finish());
  EXPECT_TRUE(host().guest_finished);
  EXPECT_EQ(host().closed, std::optional{true});
  EXPECT_FALSE(client.was_reset());
  EXPECT_EQ(stack_->channels()->connection_count(), 0U);
  EXPECT_EQ(channel_metrics_.connections_created.value(), 1U);
  EXPECT_EQ(channel_metrics_.connections_destroyed.value(), 1U);
  EXPECT_EQ(channel_metrics_.rx_bytes.value(), 408U);
  EXPECT_EQ(channel_metrics_.tx_bytes.value(), 6U);
}

TEST_F(ChannelTableTest, TheGuestMayEndFirst) {
  TcpClient client = client_at(40'000);
  connect(client);
  exchange(client, client.send("all"));
  exchange(client, client.finish());
  EXPECT_TRUE(host().guest_finished);
  EXPECT_FALSE(host().closed);
  now_ns_ += 3600 * kSecond;
  stack_->on_time(now_ns_);
  host().say(pattern(100'000));
  host().host_ended = true;
  news(client);
  for (int i = 0; i < 20 && !client.saw_end(); ++i) news(client);
  EXPECT_EQ(client.received(), pattern(100'000));
  EXPECT_TRUE(client.saw_end());
  EXPECT_EQ(host().closed, std::optional{true});
}

TEST_F(ChannelTableTest, ASlowHostShutsTheWindowAndLosesNothing) {
  TcpClient client = client_at(40'000);
  connect(client);
  host().takes = 1000;
  const std::string all = pattern(200'000);
  exchange(client, client.send(all));
  EXPECT_EQ(host().from_guest.size(), 1000U);
  EXPECT_FALSE(client.all_acknowledged());
  // Behind what the host took, what the connection holds, and no byte more.
  EXPECT_EQ(client.unacknowledged() - 1001U, 1000U + TcpConnection::kMostReceiveBytes);
  for (int i = 0; i < 200 && !client.all_acknowledged(); ++i) {
    host().takes = 1700;
    news(client);
    exchange(client, client.resend());
  }
  host().takes = all.size();
  news(client);
  EXPECT_EQ(host().from_guest, all);
}

TEST_F(ChannelTableTest, AnEndWaitsForASlowHost) {
  TcpClient client = client_at(40'000);
  connect(client);
  host().takes = 0;
  host().host_ended = true;
  exchange(client, client.send("late"));
  exchange(client, client.finish());
  EXPECT_FALSE(host().guest_finished);
  EXPECT_FALSE(host().closed);
  host().takes = 100;
  news(client);
  EXPECT_EQ(host().from_guest, "late");
  EXPECT_TRUE(host().guest_finished);
  EXPECT_EQ(host().closed, std::optional{true});
}

TEST_F(ChannelTableTest, AGuestThatReadsNothingLeavesTheHostsBytesWithTheHost) {
  TcpClient client = client_at(40'000);
  client.window = 0;
  connect(client);
  host().say(pattern(100'000));
  for (int i = 0; i < 10; ++i) news(client);
  EXPECT_EQ(host().to_guest.size(),
            100'000U - 2 * HostStream::kPiece);  // they are on their way, the rest is not asked for
  unsigned timeouts = 0;
  while (stack_->channels()->connection_count() > 0 && pass_time() && ++timeouts < 100) (void)take();
  EXPECT_LE(timeouts, TcpConnection::kAttempts + 2);
  EXPECT_EQ(host().closed, std::optional{false});
}

TEST_F(ChannelTableTest, AGuestThatIsSlowToReadKeepsItsConnection) {
  TcpClient client = client_at(40'000);
  client.window = 0;
  connect(client);
  const std::string all = pattern(100'000);
  host().say(all);
  news(client);
  for (const std::uint64_t until = now_ns_ + 3600 * kSecond; now_ns_ < until;) {
    ASSERT_TRUE(pass_time());
    ASSERT_EQ(take().size(), 1U);   // a byte that the guest does not take
    give(client.acknowledgment());  // and says so
  }
  EXPECT_EQ(stack_->channels()->connection_count(), 1U);
  client.window = 65'535;
  exchange(client, {client.acknowledgment()});
  EXPECT_EQ(client.received(), all);
}

TEST_F(ChannelTableTest, APieceDoesNotWaitForTheAcknowledgmentOfTheLast) {
  TcpClient client = client_at(40'000);
  connect(client);
  std::string all;
  for (int i = 0; i < 1000; ++i) {
    const std::string piece = pattern(1 + static_cast<std::size_t>(i));
    all += piece;
    host().say(piece);
    stack_->on_news(now_ns_);
    const ServiceSegment segment = take_one();
    EXPECT_EQ(segment.payload, piece);
    auto answers = client.take(segment);
    if (i % 10 == 9) give(answers);  // a guest's kernel that waits for more before it acknowledges
  }
  EXPECT_EQ(client.received(), all);
}

TEST_F(ChannelTableTest, ALongBodyDoesNotWaitForItsHeadsAcknowledgment) {
  TcpClient client = client_at(40'000);
  connect(client);
  host().say("head");
  stack_->on_news(now_ns_);
  (void)client.take(take_one());  // which is not acknowledged yet
  host().say(pattern(200'000));
  stack_->on_news(now_ns_);
  std::size_t length = 0;
  for (const ServiceSegment& segment : take()) length += segment.payload.size();
  EXPECT_EQ(length, HostStream::kPiece);
}

TEST_F(ChannelTableTest, WhatANewPieceFollowsIsSentAgainWithIt) {
  TcpClient client = client_at(40'000);
  connect(client);
  std::string all;
  for (int i = 0; i < 200; ++i) {
    all += pattern(1500);
    host().say(pattern(1500));
    stack_->on_news(now_ns_);
    exchange(client, {}, [i] { return i % 3 != 0; });
    EXPECT_LE(all.size() - client.received().size() - host().to_guest.size(), 2 * HostStream::kPiece);
    if (i % 3 == 0) continue;
    ASSERT_TRUE(pass_time());
    exchange(client, {});
  }
  EXPECT_EQ(client.received(), all);
  EXPECT_FALSE(client.was_reset());
}

TEST_F(ChannelTableTest, WhatBeginsInAPauseIsTriedAgainSoonAfterIt) {
  TcpClient client = client_at(40'000);
  connect(client);
  const std::uint64_t since = now_ns_;
  now_ns_ += 600 * kSecond;
  host().say("to a guest that is paused");
  stack_->on_news(now_ns_);
  (void)take();  // which is lost
  stack_->stood_still(since, now_ns_);
  ASSERT_TRUE(stack_->deadline());
  EXPECT_EQ(*stack_->deadline(), now_ns_ + TcpConnection::kTimeoutNs);
}

TEST_F(ChannelTableTest, WhatNobodyListensToIsRefusedAndASlowListenerIsAskedAgain) {
  TcpClient client = client_at(40'000);
  streams_->refusal = HostStreams::Refusal::Busy;
  give(client.resend());
  EXPECT_TRUE(take().empty());  // as if it had been lost
  streams_->refusal = HostStreams::Refusal::NoHost;
  exchange(client, client.resend());
  EXPECT_TRUE(client.was_reset());
  TcpClient stranger{40'001};
  stranger.service_port = 1001;
  streams_->refusal.reset();
  exchange(stranger, stranger.resend());
  EXPECT_TRUE(stranger.was_reset());
  EXPECT_EQ(streams_->opened, 0U);
  EXPECT_EQ(channel_metrics_.refused_count.value(), 2U);
}

TEST_F(ChannelTableTest, AHostThatGoesGivesItsLastWordsAndThenResets) {
  TcpClient client = client_at(40'000);
  connect(client);
  host().say("last words");
  host().host_ended = true;
  host().host_gone = true;
  news(client);
  news(client);
  EXPECT_EQ(client.received(), "last words");
  EXPECT_TRUE(client.saw_end());
  EXPECT_FALSE(client.was_reset());
  exchange(client, client.send("is anybody there?"));
  EXPECT_TRUE(client.was_reset());
  EXPECT_EQ(host().closed, std::optional{false});
  EXPECT_EQ(stack_->channels()->connection_count(), 0U);
}

TEST_F(ChannelTableTest, AGuestThatIsSilentAfterItsHostWentHasTenSeconds) {
  TcpClient client = client_at(40'000);
  connect(client);
  host().host_ended = host().host_gone = true;
  news(client);
  EXPECT_TRUE(client.saw_end());
  ASSERT_TRUE(stack_->deadline());
  EXPECT_EQ(*stack_->deadline() - now_ns_, TcpConnection::kFinishNs);
  ASSERT_TRUE(pass_time());
  EXPECT_EQ(stack_->channels()->connection_count(), 0U);
  EXPECT_TRUE(host().closed);
}

TEST_F(ChannelTableTest, AGuestThatWaitsForAHostAndEndsHasHungUpUnlessItSaidSomething) {
  TcpClient silent = client_at(40'000);
  silent.service_port = 1002;
  connect(silent);
  exchange(silent, silent.finish());
  EXPECT_TRUE(silent.saw_end());
  EXPECT_EQ(host().closed, std::optional{true});
  TcpClient speaks = client_at(40'001);
  speaks.service_port = 1002;
  connect(speaks);
  exchange(speaks, speaks.send("for whoever comes"));
  exchange(speaks, speaks.finish());
  EXPECT_FALSE(speaks.saw_end());
  EXPECT_EQ(host().from_guest, "for whoever comes");
  EXPECT_EQ(stack_->channels()->connection_count(), 1U);
}

TEST_F(ChannelTableTest, AHostThatBreaksOffIsAReset) {
  TcpClient client = client_at(40'000);
  connect(client);
  host().host_gone = true;  // an error: no end came
  news(client);
  EXPECT_TRUE(client.was_reset());
}

TEST_F(ChannelTableTest, AResetOfTheGuestEndsTheHostsSide) {
  TcpClient client = client_at(40'000);
  connect(client);
  give(client.reset());
  EXPECT_EQ(host().closed, std::optional{false});
  EXPECT_TRUE(take().empty());
}

TEST_F(ChannelTableTest, TenThousandConnectionsArePlacedSixteenAtATimeAndMetadataGoesOn) {
  std::uint32_t sequence = 1;
  for (unsigned i = 0; i < 10'000; ++i) {
    give(frame_of({.source_port = static_cast<std::uint16_t>(20'000 + i),
                   .destination_port = kChannel,
                   .sequence = sequence++,
                   .flags = kSyn}));
    ASSERT_LE(stack_->channels()->connection_count(), ChannelTable::kConnections);
    ASSERT_LE(streams_->open_count(), ChannelTable::kConnections);
  }
  EXPECT_EQ(streams_->opened, ChannelTable::kConnections);
  EXPECT_EQ(channel_metrics_.full_count.value(), 10'000U - ChannelTable::kConnections);
  expect_metadata();
  // Half-open ones end by themselves, and make room.
  for (int i = 0; i < 1000 && stack_->channels()->connection_count() > 0; ++i) {
    ASSERT_TRUE(pass_time());
    (void)take();
  }
  EXPECT_EQ(streams_->open_count(), 0U);
  TcpClient client = client_at(40'000);
  connect(client);
}

TEST_F(ChannelTableTest, AnIdleConnectionStaysHoweverFullTheTableIs) {
  TcpClient client = client_at(40'000);
  connect(client);
  now_ns_ += 3600 * kSecond;
  for (std::uint16_t i = 0; i < 100; ++i)
    give(frame_of({.source_port = i, .destination_port = kChannel, .sequence = 1, .flags = kSyn}));
  (void)take();
  exchange(client, client.send("still here"));
  EXPECT_EQ(host().from_guest, "still here");
}

TEST_F(ChannelTableTest, AClonesGuestIsToldThatItsConnectionsAreGone) {
  TcpClient one = client_at(40'000);
  TcpClient two = client_at(40'001);
  connect(one);
  connect(two);
  exchange(one, one.send("abc"));
  const auto ends = stack_->stream_ends();
  ASSERT_EQ(ends.size(), 2U);
  make_stack();
  serve();
  stack_->restore(ends);
  EXPECT_EQ(stack_->stream_ends(), ends);  // until the guest has heard of it
  exchange(one, {});
  EXPECT_TRUE(one.was_reset());
  EXPECT_TRUE(stack_->stream_ends().empty());
  EXPECT_EQ(streams_->opened, 0U);
  TcpClient again = client_at(40'002);
  connect(again);
}

TEST_F(ChannelTableTest, AResetOfTheDriverEndsAll) {
  TcpClient client = client_at(40'000);
  connect(client);
  stack_->reset();
  EXPECT_EQ(host().closed, std::optional{false});
  EXPECT_EQ(stack_->deadline(), std::nullopt);
  EXPECT_FALSE(stack_->ready());
}

TEST_F(ChannelTableTest, LostFramesComeAgainAndNothingTwice) {
  TcpClient client = client_at(40'000);
  const std::string up = pattern(30'000);
  const std::string down = pattern(70'000);
  unsigned count = 0;
  const auto lose = [&count] { return ++count % 7 == 0; };
  for (int i = 0; i < 20 && !client.open(); ++i) exchange(client, client.resend(), lose);
  host().say(down);
  host().host_ended = true;
  exchange(client, client.send(up), lose);
  exchange(client, client.finish(), lose);
  for (int i = 0; i < 500 && !(client.saw_end() && client.all_acknowledged()); ++i) {
    host().takes = 5000;
    stack_->on_news(now_ns_);
    pass_time();
    exchange(client, client.resend(), lose);
  }
  EXPECT_EQ(host().from_guest, up);
  EXPECT_EQ(client.received(), down);
}

}  // namespace
}  // namespace mayfly::testing
