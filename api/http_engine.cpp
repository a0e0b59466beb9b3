#include "api/http_engine.h"

#include <httplib.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace mayfly {
namespace {

/// A connection that is two strings.
class MemoryStream : public httplib::Stream {
 public:
  explicit MemoryStream(std::string_view input) : input_(input) {}

  [[nodiscard]] bool is_readable() const override { return true; }
  [[nodiscard]] bool is_writable() const override { return true; }
  ssize_t read(char* to, std::size_t size) override {
    const std::size_t length = input_.copy(to, size);
    input_.remove_prefix(length);
    return static_cast<ssize_t>(length);
  }
  ssize_t write(const char* from, std::size_t size) override {
    output_.append(from, size);
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  [[nodiscard]] socket_t socket() const override { return 0; }

  [[nodiscard]] std::string take_output() { return std::move(output_); }

 private:
  std::string_view input_;
  std::string output_;
};

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return text;
}

}  // namespace

/// cpp-httplib's server without its sockets, threads, routes and regular expressions: one handler before routing
/// answers everything.
class HttpEngine::Server : private httplib::Server {
 public:
  explicit Server(HttpEngine::Handler handler) : handler_(std::move(handler)) {
    set_default_headers({{"Server", "Mayfly"}});
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      respond(request, response);
      return HandlerResponse::Handled;
    });
    set_exception_handler([](const httplib::Request&, httplib::Response& response, const std::exception_ptr&) {
      put(response, refusal_response({.status = 500, .fault_message = "Mayfly failed to answer; its log says more"}));
    });
    set_error_handler(HandlerWithResponse{[this](const httplib::Request& request, httplib::Response& response) {
      if (response.body.empty()) refuse_request_line(request, response);
      return HandlerResponse::Handled;  // which has cpp-httplib set the length
    }});
    set_post_routing_handler([this](const httplib::Request&, httplib::Response& response) { finish(response); });
  }

  HttpReply exchange(const HttpMessage& message, const HttpFault* fault) {
    message_ = &message;
    fault_ = fault;
    const std::string connection = lower(message.connection);
    close_ = fault != nullptr || connection == "close";
    // The two spellings that cpp-httplib knows.
    const std::string_view known = close_ ? "close" : connection == "keep-alive" ? "Keep-Alive" : "";
    std::string head = message.request_line + "\r\n";
    if (!known.empty()) head += fmt::format("Connection: {}\r\n", known);
    MemoryStream stream{head += "\r\n"};
    bool closed = false;
    const bool answered = process(*this, stream, close_, closed);
    return {.bytes = stream.take_output(), .close = close_ || closed || !answered};
  }

 private:
  /// cpp-httplib 0.18 (Debian 13) also wants both ends' addresses, which are for handlers and logs; 0.11 (Debian 12)
  /// asks the stream for them. A template, so that the call of the other version need not compile.
  template <typename Engine>
  static bool process(Engine& engine, httplib::Stream& stream, bool close, bool& closed) {
    if constexpr (requires { engine.process_request(stream, close, closed, nullptr); }) {
      return engine.process_request(stream, close, closed, nullptr);
    } else {
      return engine.process_request(stream, "", 0, "", 0, close, closed, nullptr);
    }
  }

  static void put(httplib::Response& response, const ApiResponse& answer) {
    response.status = answer.status;
    if (answer.status != 204) response.set_content(answer.body, std::string{answer.content_type});
  }

  void respond(const httplib::Request& request, httplib::Response& response) {
    if (fault_ != nullptr) {
      put(response, refusal_response({.status = fault_->status, .fault_message = fault_->message}));
    } else {
      put(response, handler_({.method = request.method, .path = request.path, .body = message_->body}));
    }
  }

  /// cpp-httplib could not read the request line, or does not know its method.
  void refuse_request_line(const httplib::Request& request, httplib::Response& response) const {
    const bool whole = std::ranges::count(message_->request_line, ' ') == 2 && request.version.starts_with("HTTP/1.");
    if (response.status == 400 && whole) {
      put(response, refusal_response({.status = 404,
                                      .fault_message = fmt::format("{} {}: the API has no such method", request.method,
                                                                   request.target)}));
    } else {
      put(response,
          refusal_response({.status = 400,
                            .fault_message = response.status == 414 ? "the path is longer than 8192 bytes"
                                                                    : "the request line is not METHOD PATH HTTP/1.1"}));
    }
  }

  /// Last changes to the head of a response: what cpp-httplib promises about connections is not what we keep, and 204
  /// has no length (RFC 9110, 8.6).
  void finish(httplib::Response& response) {
    response.headers.erase("Keep-Alive");
    if (response.status == 204) response.headers.erase("Content-Length");
  }

  HttpEngine::Handler handler_;
  const HttpMessage* message_ = nullptr;
  const HttpFault* fault_ = nullptr;
  bool close_ = false;
};

HttpEngine::HttpEngine(Handler handler) : server_(std::make_unique<Server>(std::move(handler))) {}
HttpEngine::~HttpEngine() = default;

HttpReply HttpEngine::answer(const HttpMessage& message) { return server_->exchange(message, nullptr); }

HttpReply HttpEngine::refuse(const HttpFault& fault) {
  return server_->exchange({.request_line = "GET / HTTP/1.1", .connection = "close", .body = {}}, &fault);
}

}  // namespace mayfly
