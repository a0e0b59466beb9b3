#include "api/http_codec.h"

#include "vmm/base/text.h"

#include <httplib.h>

#include <algorithm>
#include <array>
#include <ranges>
#include <utility>
#include <vector>

// cpp-httplib has no public interface without a socket: Server::process_request() is protected, and answers before it
// returns. So httplib::detail it is, by functions that 0.11 (Debian 12) and 0.18 (Debian 13) have.

namespace mayfly {
namespace {

constexpr std::size_t kLongestRequestLine = 8192;  // with its line end

constexpr std::array<std::string_view, 10> kMethods = {"GET",    "HEAD",    "POST",    "PUT",   "PATCH",
                                                       "DELETE", "CONNECT", "OPTIONS", "TRACE", "PRI"};

std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  httplib::detail::split(line.data(), line.data() + line.size(), ' ',
                         [&](const char* begin, const char* end) { words.emplace_back(begin, end); });
  return words;
}

/// Of the origin form; of the absolute form, which proxies send (RFC 9112, 3.2.2); and of one with slashes too many, as clients
/// make it whose base URL ends in one.
std::string path_of(std::string_view target) {
  constexpr std::string_view kScheme = "http://";
  if (equal_ignoring_case(target.substr(0, kScheme.size()), kScheme)) {
    target.remove_prefix(kScheme.size());
    target.remove_prefix(std::min(target.find_first_of("/?#"), target.size()));
    if (!target.starts_with('/')) return "/";
  }
  if (target.starts_with('/')) target.remove_prefix(std::min(target.find_first_not_of('/'), target.size()) - 1);
  return httplib::detail::decode_url(std::string{target.substr(0, target.find_first_of("?#"))}, false);
}

/// Whether the list has "close" (RFC 9112, 9.6).
bool asks_to_close(std::string_view connection) {
  return std::ranges::any_of(std::views::split(connection, ','), [](const auto& option) {
    return equal_ignoring_case(trimmed(std::string_view{option}), "close");
  });
}

/// "HTTP/1.1 200 OK" and the header fields.
std::string head_of(int status, httplib::Headers& headers) {
  using namespace httplib;          // status_message() is here in 0.18,
  using namespace httplib::detail;  // and here in 0.11
  BufferStream head;
  write_headers(head, headers);
  return fmt::format("HTTP/1.1 {} {}\r\n{}", status, status_message(status), head.get_buffer());
}

}  // namespace

std::expected<ReceivedRequest, HttpReply> read_request(HttpMessage message) {
  ReplyForm form{.close = asks_to_close(message.connection)};
  const auto refuse = [&form](int status, std::string why) {
    return std::unexpected(write_reply(refusal_response({.status = status, .fault_message = std::move(why)}), form));
  };
  if (message.request_line.size() + 2 > kLongestRequestLine) return refuse(400, "the path is longer than 8192 bytes");
  std::vector<std::string> words = words_of(message.request_line);
  if (words.size() != 3 || (words[2] != "HTTP/1.1" && words[2] != "HTTP/1.0"))
    return refuse(400, "the request line is not METHOD PATH HTTP/1.1");
  const std::string& method = words[0];
  const std::string& target = words[1];
  if (std::ranges::find(kMethods, method) == kMethods.end())
    return refuse(400, fmt::format("{} {}: the API has no such method", method, target));
  form.head_only = method == "HEAD";
  return ReceivedRequest{.method = method, .path = path_of(target), .body = std::move(message.body), .form = form};
}

HttpReply write_reply(const ApiResponse& response, const ReplyForm& form) {
  httplib::Headers headers{{"Server", "Mayfly"}};
  if (form.close) headers.emplace("Connection", "close");
  if (response.status != 204) {  // which has no length (RFC 9110, 8.6)
    headers.emplace("Content-Length", std::to_string(response.body.size()));
    headers.emplace("Content-Type", response.content_type);
  }
  HttpReply reply{.bytes = head_of(response.status, headers), .close = form.close};
  if (!form.head_only && response.status != 204) reply.bytes += response.body;
  return reply;
}

HttpReply write_refusal(const HttpFault& fault) {
  return write_reply(refusal_response({.status = fault.status, .fault_message = fault.message}), {.close = true});
}

}  // namespace mayfly
