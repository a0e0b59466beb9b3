#pragma once

#include "api/http_framer.h"
#include "api/responses.h"

#include <expected>
#include <string>

/// Between HTTP messages and requests: what a framed message asks for, and the bytes of its answer.
///
///   auto request = read_request(framer.take());
///   if (!request) return send(request.error());   // the refusal of a malformed request line
///   ...
///   send(write_reply(response, request->form));
///
/// Pure functions: any thread.
namespace mayfly {

struct HttpReply {
  std::string bytes;
  bool close = false;  ///< The connection ends after these bytes.
};

/// What a request says about its answer.
struct ReplyForm {
  bool close = false;  ///< The connection ends after it, and the answer says so.
  bool head_only = false;
};

struct ReceivedRequest {
  std::string method;
  std::string path;  ///< Decoded, without query and fragment.
  std::string body;
  ReplyForm form;
};

/// The request that a message makes, or the refusal of its request line.
[[nodiscard]] std::expected<ReceivedRequest, HttpReply> read_request(HttpMessage message);

[[nodiscard]] HttpReply write_reply(const ApiResponse& response, const ReplyForm& form);

/// The refusal of a message that could not be framed; closes.
[[nodiscard]] HttpReply write_refusal(const HttpFault& fault);

}  // namespace mayfly
