#include "rootfs-tools/agent/frames.h"

#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly::agent {
namespace {

/// What a reader makes of bytes that come in pieces of a size; and where it stops, why.
struct Taken {
  std::vector<std::string> frames;
  std::string error;
};

Taken taken_in_pieces(std::string_view bytes, std::size_t piece) {
  Taken taken;
  FrameReader reader;
  while (!bytes.empty()) {
    const auto room = reader.room();
    const std::size_t count = std::min({piece, room.size(), bytes.size()});
    EXPECT_GT(count, 0U);
    std::ranges::copy(bytes.substr(0, count), room.begin());
    reader.fill(count);
    bytes.remove_prefix(count);
    for (;;) {
      const auto frame = reader.next();
      if (!frame) taken.error = frame.error().message;
      if (!frame) return taken;
      if (!*frame) break;
      taken.frames.push_back(std::to_string(static_cast<int>((*frame)->type)) + ':' + std::string{(*frame)->payload});
    }
  }
  return taken;
}

TEST(Frames, ComeOutAsTheyWentInWhateverTheirPieces) {
  const std::string longest(kLongestPayload, 'x');
  const std::string bytes = whole_frame(FrameType::Ping, "") + whole_frame(FrameType::Stdin, "input") +
                            whole_frame(FrameType::Data, longest) + whole_frame(FrameType::Note, std::string(1, '\0'));
  const std::vector<std::string> expected = {"1:", "16:input", "49:" + longest, std::string{"53:\0", 4}};
  for (const std::size_t piece : {1UZ, 7UZ, 8UZ, 4096UZ, bytes.size()}) {
    const Taken taken = taken_in_pieces(bytes, piece);
    EXPECT_EQ(taken.error, "");
    EXPECT_TRUE(taken.frames == expected) << "in pieces of " << piece;
  }
}

TEST(Frames, AreRefusedByTheirHeader) {
  const auto error_of = [](std::string bytes) { return taken_in_pieces(bytes, bytes.size()).error; };
  using namespace std::string_literals;
  EXPECT_EQ(error_of("\x01\0\0\0\x01\0\x01\0"s), "the peer sent a frame of 65537 bytes, and 65536 are allowed");
  EXPECT_EQ(error_of("\x01\0\0\0\xff\xff\xff\xff"s),
            "the peer sent a frame of 4294967295 bytes, and 65536 are allowed");
  for (const std::string& header :
       {"\x01\x01\0\0\0\0\0\0"s, "\x01\0\0\x80\0\0\0\0"s, "\0\0\0\0\0\0\0\0"s, "\x07\0\0\0\0\0\0\0"s,
        "\x14\0\0\0\0\0\0\0"s, "\x26\0\0\0\0\0\0\0"s, "\xff\0\0\0\0\0\0\0"s})
    EXPECT_TRUE(error_of(header).contains("unknown type")) << error_of(header);
}

TEST(Frames, LeaveWhatComesBehindThem) {
  FrameReader reader;
  const std::string bytes = whole_frame(FrameType::Done, "") + "raw";
  std::ranges::copy(bytes, reader.room().begin());
  reader.fill(bytes.size());
  ASSERT_TRUE(reader.next().value().has_value());
  EXPECT_EQ(reader.rest(), "raw");
}

TEST(Outbox, SendsWhatThePeerTakesAndKeepsTheRest) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC | O_NONBLOCK), 0);
  OwnedFd reads{pipe[0]};
  const OwnedFd writes{pipe[1]};
  std::string sent;
  for (int i = 0; i < 50'000; ++i) sent += std::to_string(i);
  Outbox outbox;
  outbox.add(sent);
  std::string received(sent.size(), '\0');
  std::size_t done = 0;
  while (done < sent.size()) {
    const auto count = outbox.flush(writes.get());
    ASSERT_TRUE(count.has_value());
    EXPECT_EQ(outbox.size(), sent.size() - done - *count);
    for (ssize_t read = 0; (read = ::read(reads.get(), received.data() + done, received.size() - done)) > 0;)
      done += static_cast<std::size_t>(read);
    const std::string rest = sent.substr(done);  // what is added goes behind what is left
    outbox.clear();
    outbox.add(rest);
  }
  EXPECT_TRUE(received == sent);
  reads.reset();
  const auto before = ::signal(SIGPIPE, SIG_IGN);
  outbox.add("nobody reads");
  EXPECT_FALSE(outbox.flush(writes.get()).has_value());
  ::signal(SIGPIPE, before);
}

}  // namespace
}  // namespace mayfly::agent
