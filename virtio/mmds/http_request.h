#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string_view>

/// Requests of guests, from the bytes that have come so far.
///
///   const auto request = HttpRequest::parse(bytes, kLongest);
///   if (!request) return refuse(request.error());     // nothing that follows can be told apart any more
///   if (!*request) return wait_for_more();
///   answer(**request);
///   consume((*request)->length());
///
/// HTTP/1.0 and 1.1 (RFC 9112), strictly: lines end with CR and LF, fields are not folded, a body has a length. The
/// body is skipped: no request of this service has a meaningful one. Views are into `bytes`. Any thread.
namespace mayfly {

enum class HttpRequestFault : std::uint8_t { Malformed, TooLong, NoSuchVersion, NoSuchCoding };

class HttpRequest {
 public:
  /// The request at the beginning of `bytes`; nullopt where it is not whole yet. A request of more than `longest` bytes
  /// is TooLong, as soon as that shows.
  [[nodiscard]] static std::expected<std::optional<HttpRequest>, HttpRequestFault> parse(std::string_view bytes,
                                                                                         std::size_t longest);

  [[nodiscard]] std::string_view method() const noexcept { return method_; }
  /// What follows the host in the target, from a '/' on; empty where nothing does.
  [[nodiscard]] std::string_view path() const noexcept { return path_; }
  /// 0 or 1: of HTTP/1.0 or 1.1.
  [[nodiscard]] unsigned minor_version() const noexcept { return minor_version_; }
  /// Whether the client means to send another request on this connection.
  [[nodiscard]] bool keep_alive() const noexcept { return keep_alive_; }
  /// Bytes of all of it.
  [[nodiscard]] std::size_t length() const noexcept { return length_; }
  /// The value of the first field of that name, in any case.
  [[nodiscard]] std::optional<std::string_view> field(std::string_view name) const noexcept;

 private:
  [[nodiscard]] std::optional<HttpRequestFault> read_request_line(std::string_view line) noexcept;
  [[nodiscard]] std::optional<HttpRequestFault> read_fields() noexcept;

  std::string_view method_;
  std::string_view path_;
  std::string_view fields_;  // whole lines, each well-formed
  unsigned minor_version_ = 0;
  bool keep_alive_ = false;
  std::size_t length_ = 0;
};

/// Whether a list such as "close, upgrade" has `member`, in any case; what follows a ';' in a member counts for
/// nothing.
[[nodiscard]] bool http_list_has(std::string_view list, std::string_view member) noexcept;

}  // namespace mayfly
