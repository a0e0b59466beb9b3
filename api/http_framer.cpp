#include "api/http_framer.h"

#include "vmm/base/error.h"
#include "vmm/base/text.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace mayfly {
namespace {

constexpr std::size_t kLongestChunkLine = 256;  // bytes of a chunk's size and extensions

}  // namespace

HttpFramer::State HttpFramer::state() const noexcept {
  if (part_ == Part::Done) return State::Complete;
  if (part_ == Part::Faulty) return State::Faulty;
  return part_ == Part::Head && line_.empty() ? State::Idle : State::Reading;
}

HttpMessage HttpFramer::take() {
  ensure(part_ == Part::Done, "an HTTP message is taken only when it is complete");
  HttpMessage message = std::exchange(message_, {});
  const HttpLimits limits = limits_;
  *this = HttpFramer{limits};
  return message;
}

bool HttpFramer::take_wants_continue() noexcept { return std::exchange(wants_continue_, false); }

std::size_t HttpFramer::feed(std::string_view bytes) {
  std::size_t taken = 0;
  while (taken < bytes.size() && part_ != Part::Done && part_ != Part::Faulty) {
    if (part_ == Part::Body || part_ == Part::Chunk) {
      taken += feed_body(bytes.substr(taken));
    } else if (part_ == Part::Head) {
      feed_head(bytes[taken++]);
    } else {
      feed_line(bytes[taken++]);
    }
  }
  return taken;
}

void HttpFramer::feed_head(char c) {
  if (line_.size() == limits_.head) {
    return fail(400, fmt::format("the request line and headers are longer than {} bytes", limits_.head));
  }
  if (c == '\n' && !line_.ends_with('\r')) return fail(400, "a line of the request's head does not end in CR LF");
  if (c != '\r' && c != '\n' && c != '\t' && (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)) {
    return fail(400, "the request's head has a control character");
  }
  line_ += c;
  if (line_ == "\r\n") line_.clear();  // an empty line before the request line is to be ignored (RFC 9112, 2.2)
  if (line_.ends_with("\r\n\r\n")) end_head();
}

void HttpFramer::end_head() {
  const std::string head = std::exchange(line_, {});
  std::string_view left = head;
  left.remove_suffix(2);  // the empty line
  const std::size_t end = left.find("\r\n");
  message_.request_line = left.substr(0, end);
  left.remove_prefix(end + 2);
  while (!left.empty()) {
    const std::size_t length = left.find("\r\n");
    if (!read_header_line(left.substr(0, length))) return;
    left.remove_prefix(length + 2);
  }
  if (chunked_ && has_length_) {
    return fail(400, "the request has both a Content-Length and a Transfer-Encoding");
  }
  if (chunked_) {
    part_ = Part::ChunkSize;
  } else {
    part_ = remaining_ > 0 ? Part::Body : Part::Done;
  }
  wants_continue_ = wants_continue_ && part_ != Part::Done;
}

bool HttpFramer::read_header_line(std::string_view line) {
  if (const auto field = http_field(line)) return read_header(field->name, field->value);
  fail(400, "a header field of the request is malformed");
  return false;
}

bool HttpFramer::read_header(std::string_view name, std::string_view value) {
  if (equal_ignoring_case(name, "content-length")) return read_length(value);
  if (equal_ignoring_case(name, "transfer-encoding")) {
    if (chunked_ || !equal_ignoring_case(value, "chunked")) {
      fail(400, "the request has a Transfer-Encoding other than chunked");
      return false;
    }
    chunked_ = true;
  } else if (equal_ignoring_case(name, "expect")) {
    if (!equal_ignoring_case(value, "100-continue")) {
      fail(417, "the request expects something other than 100-continue");
      return false;
    }
    wants_continue_ = true;
  } else if (equal_ignoring_case(name, "connection")) {
    if (!message_.connection.empty()) message_.connection += ',';  // one list (RFC 9110, 5.3)
    message_.connection += value;
  }
  return true;
}

bool HttpFramer::read_length(std::string_view value) {
  std::uint64_t length = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), length);
  if (error == std::errc::result_out_of_range) {
    fail_too_large();
    return false;
  }
  if (error != std::errc{} || end != value.data() + value.size() || (has_length_ && length != remaining_)) {
    fail(400, "the request's Content-Length is malformed");
    return false;
  }
  has_length_ = true;
  remaining_ = length;
  if (length > limits_.body) fail_too_large();
  return length <= limits_.body;
}

std::size_t HttpFramer::feed_body(std::string_view bytes) {
  const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(remaining_, bytes.size()));
  message_.body.append(bytes.substr(0, length));
  remaining_ -= length;
  if (remaining_ == 0) part_ = part_ == Part::Body ? Part::Done : Part::ChunkEnd;
  return length;
}

void HttpFramer::feed_line(char c) {
  if (c != '\n') {
    if (line_.size() == kLongestChunkLine && part_ != Part::Trailer) return fail(400, "a chunk's size is malformed");
    line_ += c;
    if (part_ == Part::Trailer) count_trailer(1);
    return;
  }
  if (!line_.ends_with('\r')) return fail(400, "a line of the chunked body does not end in CR LF");
  line_.pop_back();
  if (part_ == Part::ChunkSize) {
    end_chunk_size();
  } else if (part_ == Part::ChunkEnd) {
    if (!line_.empty()) return fail(400, "a chunk is longer than its size says");
    part_ = Part::ChunkSize;
  } else if (line_.empty()) {
    part_ = Part::Done;  // the empty line after the trailer, whose fields are of no interest
  }
  line_.clear();
}

void HttpFramer::count_trailer(std::size_t length) {
  trailer_length_ += length;
  if (trailer_length_ > limits_.head)
    fail(400, fmt::format("chunk extensions and trailer are longer than {} bytes", limits_.head));
}

void HttpFramer::end_chunk_size() {
  const std::string_view line = line_;
  const std::string_view digits = trimmed(line.substr(0, line.find(';')));
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), remaining_, 16);
  if (error == std::errc::result_out_of_range) return fail_too_large();
  if (error != std::errc{} || end != digits.data() + digits.size()) return fail(400, "a chunk's size is malformed");
  if (remaining_ > limits_.body - message_.body.size()) return fail_too_large();
  part_ = remaining_ == 0 ? Part::Trailer : Part::Chunk;
  // The body's limit bounds the chunks, and so the digits that they need.
  count_trailer(line.size() - (digits.size() - std::min(digits.find_first_not_of('0'), digits.size())));
}

void HttpFramer::fail(int status, std::string message) {
  fault_ = {status, std::move(message)};
  part_ = Part::Faulty;
  wants_continue_ = false;
}

void HttpFramer::fail_too_large() {
  fail(413,
       fmt::format("the body is larger than {} bytes, the limit that --http-api-max-payload-size sets", limits_.body));
}

}  // namespace mayfly
