#pragma once

#include "api/http_framer.h"
#include "api/responses.h"

#include <functional>
#include <memory>
#include <string>

/// HTTP/1.0 and 1.1 spoken by cpp-httplib, over memory: a framed message in, the bytes of its answer out.
///
///   HttpEngine engine{[&](const ApiRequest& request) { return answer_request(request, target); }};
///   const HttpReply reply = engine.answer(framer.take());
///
/// One thread at a time. The constructor makes the process ignore SIGPIPE (cpp-httplib does).
namespace mayfly {

struct HttpReply {
  std::string bytes;
  bool close = false;  ///< The connection ends after these bytes.
};

class HttpEngine {
 public:
  using Handler = std::function<ApiResponse(const ApiRequest& request)>;

  explicit HttpEngine(Handler handler);
  HttpEngine(const HttpEngine&) = delete;
  HttpEngine& operator=(const HttpEngine&) = delete;
  ~HttpEngine();

  /// The handler's answer, or a refusal of a malformed request line. A handler that throws is answered with 500.
  [[nodiscard]] HttpReply answer(const HttpMessage& message);
  /// The refusal of a message that could not be framed; closes.
  [[nodiscard]] HttpReply refuse(const HttpFault& fault);

 private:
  class Server;
  std::unique_ptr<Server> server_;
};

}  // namespace mayfly
