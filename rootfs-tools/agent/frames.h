#pragma once

#include "vmm/base/error.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// What goes between the agent in a guest and its host: frames over a stream of bytes.
///
///   u8 type, 3 bytes of zero, u32 length of the payload (little-endian, at most kLongestPayload), payload
///
/// Both sides read with the same code, and neither trusts the other: a frame that is wrong ends the connection.
namespace mayfly::agent {

inline constexpr std::size_t kHeaderBytes = 8;
inline constexpr std::size_t kLongestPayload = 64 * 1024;

enum class FrameType : std::uint8_t {
  // A request: the first frame of a connection, from the host. There is one a connection.
  Ping = 1,
  Exec,
  Connect,
  Get,
  Put,
  PowerOff,
  // To a command.
  Stdin = 16,
  StdinEnd,
  Signal,
  Resize,
  // From the guest.
  Done = 32,
  Refused,
  Stdout,
  Stderr,
  Exit,
  StdinTaken,
  // A tree of files, in either direction.
  Entry = 48,
  Data,
  Hole,
  Leave,
  TreeEnd,
  Note,
};

struct Frame {
  FrameType type{};
  std::string_view payload{};
};

/// Takes frames out of bytes as they come, in a buffer of one frame.
///
///   const auto room = reader.room();                  // read() into it
///   reader.fill(count);
///   while (auto frame = TRY(reader.next())) use(*frame);   // until the next call of room()
class FrameReader {
 public:
  /// Where the next bytes go; never empty once next() has found no whole frame.
  [[nodiscard]] std::span<char> room();
  void fill(std::size_t count);
  /// Nothing: the frame's end is not here yet. Errors: an unknown type, a length over the limit, a header that is none.
  [[nodiscard]] Result<std::optional<Frame>> next();
  /// What came behind the frames that were taken.
  [[nodiscard]] std::string_view rest() const { return {buffer_.data() + begin_, end_ - begin_}; }

 private:
  std::vector<char> buffer_ = std::vector<char>(kHeaderBytes + kLongestPayload);
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

/// The header of a frame whose payload has at most kLongestPayload bytes.
[[nodiscard]] std::string frame_header(FrameType type, std::size_t payload);
[[nodiscard]] std::string whole_frame(FrameType type, std::string_view payload);

/// Bytes on their way out of a socket or pipe that does not block. Who adds looks at size() first.
class Outbox {
 public:
  void add(std::string_view bytes);
  void add(FrameType type, std::string_view payload);
  [[nodiscard]] std::size_t size() const noexcept { return bytes_.size() - sent_; }
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  /// Writes what the other side takes now; how many bytes, or an error with errno. No SIGPIPE where that is ignored.
  [[nodiscard]] Result<std::size_t> flush(int fd);
  void clear() noexcept;

 private:
  std::string bytes_;
  std::size_t sent_ = 0;
};

}  // namespace mayfly::agent
