#include "virtio/mmds/metadata_service.h"

#include "vmm/base/text.h"

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace mayfly {
namespace {

constexpr std::string_view kJson = "application/json";
constexpr std::string_view kText = "text/plain";
constexpr std::string_view kTokenPath = "latest/api/token";

/// A field under the dialect's name and EC2's.
using Names = std::array<std::string_view, 2>;
constexpr Names kTokenNames = {"X-metadata-token", "X-aws-ec2-metadata-token"};
constexpr Names kSecondsNames = {"X-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token-ttl-seconds"};

struct NamedValue {
  std::string_view name;
  std::string_view value;
};

std::optional<NamedValue> find_field(const HttpRequest& request, const Names& names) {
  for (const std::string_view name : names)
    if (const auto value = request.field(name)) return NamedValue{name, *value};
  return std::nullopt;
}

/// Whether `path` is `wanted`, whatever slashes are repeated or at the end.
bool same_path(std::string_view path, std::string_view wanted) {
  std::string plain;
  for (const char c : path)
    if (c != '/' || (!plain.empty() && plain.back() != '/')) plain += c;
  if (plain.ends_with('/')) plain.pop_back();
  return plain == wanted;
}

std::optional<std::uint64_t> read_seconds(std::string_view text) {
  const auto seconds = whole_number<std::uint64_t>(text);
  if (!seconds || *seconds < SessionTokens::kShortestSeconds || *seconds > SessionTokens::kLongestSeconds)
    return std::nullopt;
  return seconds;
}

std::string_view reason(unsigned status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 413:
      return "Content Too Large";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Not Implemented";
  }
}

}  // namespace

/// An answer before it is HTTP.
struct MetadataService::Reply {
  unsigned status = 200;
  std::string body;
  std::string_view content_type = kText;
  std::string fields{};  // lines besides those that every answer has

  [[nodiscard]] HttpAnswer formatted(unsigned minor_version, bool keep_alive) const {
    return {.text = fmt::format("HTTP/1.{} {} {}\r\nServer: Mayfly\r\nConnection: {}\r\n{}Content-Type: {}\r\n"
                                "Content-Length: {}\r\n\r\n{}",
                                minor_version, status, reason(status), keep_alive ? "keep-alive" : "close", fields,
                                content_type, body.size(), body),
            .keep_alive = keep_alive};
  }
};

HttpAnswer MetadataService::answer(const HttpRequest& request, std::uint64_t now_ns) const {
  Reply reply = reply_to(request, now_ns);
  reply.fields += fmt::format("Mayfly-Generation: {:016x}\r\n", identity_.generation);
  if (request.method() != "HEAD") return reply.formatted(request.minor_version(), request.keep_alive());
  // No answer to HEAD has a body, whatever its length says.
  HttpAnswer head = reply.formatted(request.minor_version(), false);
  head.text.resize(head.text.size() - reply.body.size());
  return head;
}

HttpAnswer MetadataService::refuse(HttpRequestFault fault) {
  Reply reply{.status = 400, .body = "This is no HTTP request."};
  if (fault == HttpRequestFault::TooLong) reply = {.status = 413, .body = "The request is too long."};
  if (fault == HttpRequestFault::NoSuchVersion)
    reply = {.status = 505, .body = "Only HTTP/1.0 and HTTP/1.1 are spoken here."};
  if (fault == HttpRequestFault::NoSuchCoding)
    reply = {.status = 501, .body = "Only bodies of a known length are taken."};
  return reply.formatted(1, false);
}

MetadataService::Reply MetadataService::reply_to(const HttpRequest& request, std::uint64_t now_ns) const {
  if (request.method() == "GET") {
    if (request.path().empty()) return {.status = 400, .body = "The URI has no path."};
    return get(request, now_ns);
  }
  if (request.method() == "PUT") return put(request, now_ns);
  return {.status = 405, .body = "Only GET and PUT are served here.", .fields = "Allow: GET, PUT\r\n"};
}

MetadataService::Reply MetadataService::get(const HttpRequest& request, std::uint64_t now_ns) const {
  if (config_.version == MmdsVersion::V2) {
    const auto token = find_field(request, kTokenNames);
    if (!token) {
      metrics_.rx_no_token.add();
      return {.status = 401, .body = fmt::format("A token is needed, in {} or {}.", kTokenNames[0], kTokenNames[1])};
    }
    if (!identity_.tokens.valid(token->value, now_ns)) {
      metrics_.rx_invalid_token.add();
      return {.status = 401, .body = "The token is not valid, or not any more."};
    }
  }
  const auto accepted = request.field("Accept");
  const bool as_json = !config_.imds_compat && accepted && http_list_has(*accepted, kJson);
  using Format = MetadataStore::Format;
  auto value = store_.get(request.path(), as_json ? Format::Json : Format::Imds);
  if (value) return {.body = std::move(*value), .content_type = as_json ? kJson : kText};
  if (value.error() == MetadataStore::Fault::Unsupported)
    return {.status = 501, .body = fmt::format("This value is neither a string nor an object: accept {}.", kJson)};
  return {.status = 404, .body = fmt::format("There is no {}.", request.path())};
}

MetadataService::Reply MetadataService::put(const HttpRequest& request, std::uint64_t now_ns) const {
  // A proxy forwards requests of anyone.
  if (request.field("X-Forwarded-For")) return {.status = 400, .body = "Tokens are not given with X-Forwarded-For."};
  if (!same_path(request.path(), kTokenPath))
    return {.status = 404, .body = fmt::format("There is no {}; PUT is for /{}.", request.path(), kTokenPath)};
  const auto field = find_field(request, kSecondsNames);
  if (!field) {
    return {.status = 400,
            .body = fmt::format("A token's time is needed, in {} or {}.", kSecondsNames[0], kSecondsNames[1])};
  }
  const auto seconds = read_seconds(field->value);
  if (!seconds) {
    return {.status = 400,
            .body = fmt::format("{} must be a number from {} to {}.", field->name, SessionTokens::kShortestSeconds,
                                SessionTokens::kLongestSeconds)};
  }
  return {.body = identity_.tokens.issue(*seconds, now_ns), .fields = fmt::format("{}: {}\r\n", field->name, *seconds)};
}

}  // namespace mayfly
