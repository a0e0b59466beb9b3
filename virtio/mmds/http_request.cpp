#include "virtio/mmds/http_request.h"

#include "vmm/base/text.h"

#include <algorithm>
#include <charconv>

namespace mayfly {
namespace {

constexpr std::string_view kLineEnd = "\r\n";
constexpr std::string_view kHeadEnd = "\r\n\r\n";
constexpr std::string_view kScheme = "http://";

bool is_token(std::string_view text) noexcept { return !text.empty() && std::ranges::all_of(text, is_token_character); }

/// Visible characters and what is not ASCII.
bool is_visible(char c) noexcept { return static_cast<unsigned char>(c) > 0x20 && c != 0x7F; }

/// Takes what precedes `end` from the front of `text`, and `end` with it; all of it where there is no `end`.
std::string_view take_until(std::string_view& text, std::string_view end) noexcept {
  const std::size_t at = text.find(end);
  const std::string_view taken = text.substr(0, at);
  text.remove_prefix(at == std::string_view::npos ? text.size() : at + end.size());
  return taken;
}

bool has_lone_line_feed(std::string_view bytes) noexcept {
  for (std::size_t i = 0; i < bytes.size(); ++i)
    if (bytes[i] == '\n' && (i == 0 || bytes[i - 1] != '\r')) return true;
  return false;
}

}  // namespace

std::expected<std::optional<HttpRequest>, HttpRequestFault> HttpRequest::parse(std::string_view bytes,
                                                                               std::size_t longest) {
  const std::size_t end = bytes.find(kHeadEnd);
  const std::string_view head = bytes.substr(0, end);
  // A client that ends lines in another way would wait for ever.
  if (has_lone_line_feed(head)) return std::unexpected(HttpRequestFault::Malformed);
  if (end == std::string_view::npos) {
    if (bytes.size() >= longest) return std::unexpected(HttpRequestFault::TooLong);
    return std::nullopt;
  }
  HttpRequest request;
  request.fields_ = head;
  request.length_ = end + kHeadEnd.size();
  if (const auto fault = request.read_request_line(take_until(request.fields_, kLineEnd)))
    return std::unexpected(*fault);
  if (const auto fault = request.read_fields()) return std::unexpected(*fault);
  if (request.length_ > longest) return std::unexpected(HttpRequestFault::TooLong);
  if (request.length_ > bytes.size()) return std::nullopt;
  return request;
}

std::optional<HttpRequestFault> HttpRequest::read_request_line(std::string_view line) noexcept {
  method_ = take_until(line, " ");
  path_ = take_until(line, " ");
  if (!is_token(method_) || path_.empty() || !std::ranges::all_of(path_, is_visible))
    return HttpRequestFault::Malformed;
  if (equal_ignoring_case(path_.substr(0, kScheme.size()), kScheme)) {
    path_.remove_prefix(kScheme.size());
    path_.remove_prefix(std::min(path_.find('/'), path_.size()));
  } else if (path_.front() != '/') {
    return HttpRequestFault::Malformed;
  }
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (line.size() != 8 || !line.starts_with("HTTP/") || !is_digit(line[5]) || line[6] != '.' || !is_digit(line[7]))
    return HttpRequestFault::Malformed;
  if (line[5] != '1' || line[7] > '1') return HttpRequestFault::NoSuchVersion;
  minor_version_ = static_cast<unsigned>(line[7] - '0');
  return std::nullopt;
}

/// Checks every field, and acts on those that define the request's end and what follows.
std::optional<HttpRequestFault> HttpRequest::read_fields() noexcept {
  keep_alive_ = minor_version_ > 0;
  std::optional<std::size_t> body;
  for (std::string_view rest = fields_; !rest.empty();) {
    const auto field = http_field(take_until(rest, kLineEnd));
    if (!field) return HttpRequestFault::Malformed;
    const auto [name, value] = *field;
    if (equal_ignoring_case(name, "Transfer-Encoding")) return HttpRequestFault::NoSuchCoding;
    if (equal_ignoring_case(name, "Connection")) {
      if (http_list_has(value, "close"))
        keep_alive_ = false;
      else if (http_list_has(value, "keep-alive"))
        keep_alive_ = true;
    }
    if (equal_ignoring_case(name, "Content-Length")) {
      std::size_t length = 0;
      const auto [after, error] = std::from_chars(value.data(), value.data() + value.size(), length);
      if (error == std::errc::result_out_of_range) return HttpRequestFault::TooLong;
      if (error != std::errc{} || after != value.data() + value.size() || (body && *body != length))
        return HttpRequestFault::Malformed;
      body = length;
    }
  }
  // Such that the sum cannot wrap: longer than any limit is long enough.
  length_ += std::min<std::size_t>(body.value_or(0), std::size_t{1} << 31);
  return std::nullopt;
}

std::optional<std::string_view> HttpRequest::field(std::string_view name) const noexcept {
  for (std::string_view rest = fields_; !rest.empty();) {
    std::string_view line = take_until(rest, kLineEnd);
    if (equal_ignoring_case(take_until(line, ":"), name)) return trimmed(line);
  }
  return std::nullopt;
}

bool http_list_has(std::string_view list, std::string_view member) noexcept {
  while (!list.empty()) {
    std::string_view each = take_until(list, ",");
    if (equal_ignoring_case(trimmed(take_until(each, ";")), member)) return true;
  }
  return false;
}

}  // namespace mayfly
