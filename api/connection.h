#pragma once

#include "api/http_engine.h"
#include "api/http_framer.h"
#include "vmm/base/owned_fd.h"

#include <chrono>
#include <cstdint>
#include <string>

/// One client's connection, without blocking: what has arrived is framed and answered, what cannot be sent yet waits.
///
/// The loop that owns it (api/server.cpp) calls on_ready() when epoll reports the descriptor and on_deadline() when
/// deadline() has passed, and destroys it when done(). One thread.
namespace mayfly {

class Connection {
 public:
  using Clock = std::chrono::steady_clock;
  struct Limits {
    HttpLimits http;
    std::chrono::milliseconds request_deadline;
  };

  /// Takes over a non-blocking socket.
  Connection(OwnedFd fd, const Limits& limits, HttpEngine& engine);

  /// Never throws: a client that memory is too short to serve is cut off.
  void on_ready() noexcept;
  /// The client was too slow: it is told so where nothing else is under way, and cut off.
  void on_deadline();

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  /// What to wait for: EPOLLIN or EPOLLOUT.
  [[nodiscard]] std::uint32_t awaited() const noexcept;
  /// When the client must have sent or taken what it is at; max() while it is idle.
  [[nodiscard]] Clock::time_point deadline() const noexcept { return deadline_; }
  /// Nothing is under way: it can be closed without anyone losing a request.
  [[nodiscard]] bool idle() const noexcept;
  [[nodiscard]] bool done() const noexcept { return phase_ == Phase::Done; }

 private:
  enum class Phase {
    Serving,
    Draining,  ///< Refused and told so: what the client still sends is thrown away, so that it can read the refusal.
    Done,
  };

  void advance();
  void receive();
  void serve(std::string_view bytes);
  void reply(const HttpReply& reply);
  void on_end_of_input();
  void send_pending();
  void drain();
  void renew_deadline();

  OwnedFd fd_;
  Limits limits_;
  HttpEngine& engine_;
  HttpFramer framer_;
  Phase phase_ = Phase::Serving;
  std::string unread_;       ///< Received, but not looked at while an answer cannot be sent.
  std::string pending_;      ///< Answers that the socket did not take yet.
  bool closing_ = false;     ///< Nothing is read any more once pending_ is sent.
  bool refused_ = false;     ///< The last answer was a refusal to read on.
  std::size_t drained_ = 0;  ///< Bytes thrown away.
  Clock::time_point deadline_ = Clock::time_point::max();
};

}  // namespace mayfly
