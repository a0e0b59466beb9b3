#include "rootfs-tools/agent/frames.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace mayfly::agent {
namespace {

bool is_known(std::uint8_t type) {
  const auto among = [type](FrameType first, FrameType last) {
    return type >= static_cast<std::uint8_t>(first) && type <= static_cast<std::uint8_t>(last);
  };
  return among(FrameType::Ping, FrameType::PowerOff) || among(FrameType::Stdin, FrameType::Resize) ||
         among(FrameType::Done, FrameType::StdinTaken) || among(FrameType::Entry, FrameType::Note);
}

}  // namespace

std::span<char> FrameReader::room() {
  if (begin_ > 0) std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  return std::span{buffer_}.subspan(end_);
}

void FrameReader::fill(std::size_t count) {
  ensure(count <= buffer_.size() - end_, "a frame reader is filled with what it has room for");
  end_ += count;
}

Result<std::optional<Frame>> FrameReader::next() {
  const std::string_view here = rest();
  if (here.size() < kHeaderBytes) return std::nullopt;
  const auto byte = [here](std::size_t at) { return static_cast<std::uint8_t>(here[at]); };
  if (!is_known(byte(0)) || byte(1) != 0 || byte(2) != 0 || byte(3) != 0)
    return fail(ErrorKind::InvalidArgument,
                "the peer sent a frame of an unknown type ({:#x}); are both of one version?", byte(0));
  const std::size_t length =
      byte(4) | std::size_t{byte(5)} << 8 | std::size_t{byte(6)} << 16 | std::size_t{byte(7)} << 24;
  if (length > kLongestPayload)
    return fail(ErrorKind::TooLarge, "the peer sent a frame of {} bytes, and {} are allowed", length, kLongestPayload);
  if (here.size() - kHeaderBytes < length) return std::nullopt;
  begin_ += kHeaderBytes + length;
  return Frame{.type = static_cast<FrameType>(byte(0)), .payload = here.substr(kHeaderBytes, length)};
}

std::string frame_header(FrameType type, std::size_t payload) {
  ensure(payload <= kLongestPayload, "a frame's payload is within its limit");
  const auto byte = [payload](unsigned shift) { return static_cast<char>(payload >> shift & 0xFF); };
  const std::array header = {static_cast<char>(type), '\0', '\0', '\0', byte(0), byte(8), byte(16), byte(24)};
  return {header.begin(), header.end()};
}

std::string whole_frame(FrameType type, std::string_view payload) {
  std::string frame = frame_header(type, payload.size());
  frame += payload;
  return frame;
}

void Outbox::add(std::string_view bytes) {
  if (sent_ > 0) bytes_.erase(0, std::exchange(sent_, 0));
  bytes_ += bytes;
}

void Outbox::add(FrameType type, std::string_view payload) {
  add(frame_header(type, payload.size()));
  bytes_ += payload;
}

Result<std::size_t> Outbox::flush(int fd) {
  std::size_t before = size();
  while (!empty()) {
    const ssize_t count = ::write(fd, bytes_.data() + sent_, size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count < 0) return fail_errno(ErrorKind::System, "cannot send");
    sent_ += static_cast<std::size_t>(count);
  }
  before -= size();
  if (empty()) clear();
  return before;
}

void Outbox::clear() noexcept {
  bytes_.clear();
  sent_ = 0;
}

}  // namespace mayfly::agent
