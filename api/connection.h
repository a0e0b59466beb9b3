#pragma once

#include "api/http_codec.h"
#include "api/http_framer.h"
#include "vmm/base/owned_fd.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <variant>

/// One client's connection, without blocking: what has arrived is framed and handled, what cannot be sent yet waits.
///
/// The loop that owns it (api/server.cpp) calls on_ready() when epoll reports the descriptor and on_deadline() when
/// deadline() has passed, and destroys it when done(). One thread.
///
/// A request that is not answered at once makes the connection wait: nothing more is read, and nothing that has been
/// read is begun, until answer(). It is kept until then, even if its client hangs up, so that the number of connections
/// bounds that of commands under way. A read is not waited for beyond a deadline: its client is told so and cut off.
namespace mayfly {

/// Of a request whose answer comes later, by Connection::answer().
struct AnswerToCome {
  /// Of a read: who waits longer waits for a machine whose thread hangs. Zero: a command may take its time.
  std::chrono::milliseconds within{};
  int if_too_large = 400;  ///< The status of an error about a limit.
};

/// Answers a request of the connection with that id.
using RequestHandler =
    std::function<std::variant<ApiResponse, AnswerToCome>(std::uint64_t connection, const ApiRequest& request)>;

/// What clients are told of a machine that does not answer reads.
[[nodiscard]] std::string unanswered(std::chrono::milliseconds deadline);

class Connection {
 public:
  using Clock = std::chrono::steady_clock;
  struct Limits {
    HttpLimits http;
    std::chrono::milliseconds request_deadline;
  };

  /// Takes over a non-blocking socket.
  Connection(std::uint64_t id, OwnedFd fd, const Limits& limits, const RequestHandler& handler);

  // These never throw: a client that memory is too short to serve is cut off.
  /// `events`: what epoll reports.
  void on_ready(std::uint32_t events) noexcept;
  /// The answer to the request that waits for it.
  void answer(const Result<Answer>& answer) noexcept;
  /// After answer(): begins what the client has sent meanwhile.
  void go_on() noexcept;
  /// The client was too slow, or the machine with a GET: the client is told so where nothing else is under way, and cut
  /// off.
  void on_deadline() noexcept;

  [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  /// What epoll is to wait for.
  [[nodiscard]] std::uint32_t awaited() const noexcept;
  /// When the client must have sent or taken what it is at, or must have its GET's answer; max() while it is idle.
  [[nodiscard]] Clock::time_point deadline() const noexcept { return deadline_; }
  /// Nothing is under way: it can be closed without anyone losing a request.
  [[nodiscard]] bool idle() const noexcept;
  /// A request has been begun and not been answered.
  [[nodiscard]] bool waiting() const noexcept { return waiting_; }
  [[nodiscard]] bool done() const noexcept { return phase_ == Phase::Done && !waiting_; }
  /// A GET's answer did not come in time, and has not come yet.
  [[nodiscard]] bool given_up() const noexcept { return waiting_ && given_up_; }

 private:
  enum class Phase {
    Serving,
    Draining,  ///< Refused and told so: what the client still sends is thrown away, so that it can read the refusal.
    Done,
  };

  template <typename Step>
  void guarded(Step step) noexcept;
  void advance();
  void receive();
  void serve(std::string_view bytes);
  void begin(HttpMessage message);
  [[nodiscard]] std::variant<ApiResponse, AnswerToCome> handle(const ReceivedRequest& request);
  void reply(const HttpReply& reply);
  void on_end_of_input();
  void give_up() noexcept;
  void send_pending();
  void drain();
  void renew_deadline();

  std::uint64_t id_;
  OwnedFd fd_;
  Limits limits_;
  const RequestHandler& handler_;
  HttpFramer framer_;
  Phase phase_ = Phase::Serving;
  std::string unread_;      ///< Received, but not looked at while an answer is waited for or cannot be sent.
  std::string pending_;     ///< Answers; empty once the socket has taken all of them.
  std::size_t sent_ = 0;    ///< What it has taken so far. It stays, since to move the rest each time is dear.
  ReplyForm form_;          ///< Of the answer that is waited for.
  int if_too_large_ = 400;  ///< Its status where it is an error about a limit.
  bool waiting_ = false;    ///< For it.
  std::chrono::milliseconds within_{};  ///< How long it is waited for.
  bool given_up_ = false;               ///< The client waits no more.
  bool muted_ = false;                  ///< The client sent more meanwhile: epoll is not to repeat it.
  bool closing_ = false;                ///< Nothing is read any more once pending_ is sent.
  bool refused_ = false;                ///< The last answer was a refusal to read on.
  std::size_t drained_ = 0;             ///< Bytes thrown away.
  Clock::time_point deadline_ = Clock::time_point::max();
};

}  // namespace mayfly
