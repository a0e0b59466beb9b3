#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

/// Where an HTTP/1.1 request ends, within which bounds: bytes in as they come, whole messages out.
///
///   HttpFramer framer{limits};
///   while (!bytes.empty()) {
///     bytes.remove_prefix(framer.feed(bytes));
///     if (framer.state() == HttpFramer::State::Complete) serve(framer.take());   // then the next one, if pipelined
///     if (framer.state() == HttpFramer::State::Faulty) refuse(framer.fault());   // then close
///   }
///
/// As RFC 9112 has it, strictly: line ends, one length, bounded everything. cpp-httplib's own reader skips malformed
/// header lines, decodes "%31" in a Content-Length, and reads chunked bodies without bound. No thread-affinity; memory
/// is bounded by the limits.
namespace mayfly {

struct HttpLimits {
  std::size_t head = 16 * 1024;  ///< Bytes of request line and header fields together.
  std::size_t body = 51'200;     ///< Bytes of body, decoded.
};

/// A complete request: its request line, the one header field that matters to an answer, and its body.
struct HttpMessage {
  std::string request_line;  ///< Without its line end.
  std::string connection;    ///< The list of Connection; empty where absent.
  std::string body;          ///< Decoded.
};

/// Why a message cannot be read on; the connection is closed after the refusal.
struct HttpFault {
  int status = 400;
  std::string message;
};

class HttpFramer {
 public:
  enum class State {
    Idle,      ///< Between messages: nothing has arrived of the next one.
    Reading,   ///< In the middle of a message.
    Complete,  ///< take() has a message.
    Faulty,    ///< fault() says why; nothing more is read.
  };

  explicit HttpFramer(const HttpLimits& limits) : limits_(limits) {}

  /// Takes bytes up to the end of the message; returns how many it took (all, unless Complete or Faulty comes of it).
  [[nodiscard]] std::size_t feed(std::string_view bytes);
  [[nodiscard]] State state() const noexcept;
  /// The message; Idle afterwards. Only where Complete.
  [[nodiscard]] HttpMessage take();
  [[nodiscard]] const HttpFault& fault() const noexcept { return fault_; }
  /// True once per message whose client waits for "100 Continue" before it sends the body.
  [[nodiscard]] bool take_wants_continue() noexcept;

 private:
  enum class Part { Head, Body, ChunkSize, Chunk, ChunkEnd, Trailer, Done, Faulty };

  void feed_head(char c);
  void feed_line(char c);
  std::size_t feed_body(std::string_view bytes);
  void end_head();
  bool read_header_line(std::string_view line);
  bool read_header(std::string_view name, std::string_view value);
  bool read_length(std::string_view value);
  void end_chunk_size();
  void count_trailer(std::size_t length);
  void fail(int status, std::string message);
  void fail_too_large();

  HttpLimits limits_;
  Part part_ = Part::Head;
  HttpMessage message_;
  HttpFault fault_;
  std::string line_;                ///< The head so far; after it, the line of chunked coding that is being read.
  std::size_t trailer_length_ = 0;  ///< Bytes of trailer so far, and of chunk extensions; bounded as the head is.
  std::uint64_t remaining_ = 0;     ///< Bytes of the body or chunk that are to come.
  bool has_length_ = false;
  bool chunked_ = false;
  bool wants_continue_ = false;
};

}  // namespace mayfly
