#include "api/connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <exception>
#include <utility>

namespace mayfly {
namespace {

constexpr std::size_t kReceiveSize = 16 * 1024;
constexpr std::size_t kMostDrained = std::size_t{1} << 20;  // a refused client may still send this much

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

}  // namespace

std::string unanswered(std::chrono::milliseconds deadline) {
  return fmt::format(
      "the machine has not answered for {} ms: its thread waits for a file, or for memory that nobody gives; SIGTERM "
      "ends it",
      deadline.count());
}

Connection::Connection(std::uint64_t id, OwnedFd fd, const Limits& limits, const RequestHandler& handler)
    : id_(id), fd_(std::move(fd)), limits_(limits), handler_(handler), framer_(limits.http) {}

std::uint32_t Connection::awaited() const noexcept {
  // Few clients send more before they have their answer: epoll is told only when one has. Edge-triggered it reports a
  // hang-up, which it reports unasked, once.
  if (waiting_) return muted_ ? EPOLLET : EPOLLIN;
  return pending_.empty() ? EPOLLIN : EPOLLOUT;
}

bool Connection::idle() const noexcept {
  return phase_ == Phase::Serving && !waiting_ && pending_.empty() && framer_.state() == HttpFramer::State::Idle;
}

void Connection::on_ready(std::uint32_t events) noexcept {
  if (waiting_) {
    muted_ = true;
    if ((events & (EPOLLHUP | EPOLLERR)) != 0) phase_ = Phase::Done;
    return;
  }
  guarded([this] { advance(); });
}

void Connection::answer(const Result<Answer>& answer) noexcept {
  waiting_ = false;
  muted_ = false;
  if (phase_ != Phase::Serving) return;
  guarded([&] {
    reply(write_reply(command_response(answer, if_too_large_), form_));
    renew_deadline();
  });
}

void Connection::go_on() noexcept {
  if (phase_ == Phase::Serving && pending_.empty()) guarded([this] { serve(std::exchange(unread_, {})); });
}

template <typename Step>
void Connection::guarded(Step step) noexcept {
  try {
    step();
  } catch (const std::exception&) {
    phase_ = Phase::Done;
  }
}

void Connection::advance() {
  if (phase_ == Phase::Draining) {
    drain();
  } else if (!pending_.empty()) {
    send_pending();
    go_on();
  } else {
    receive();
  }
}

void Connection::on_deadline() noexcept {
  if (waiting_) return give_up();
  if (phase_ == Phase::Serving && pending_.empty()) {
    guarded([this] {
      reply(write_refusal(
          {408, fmt::format("the request did not arrive within {} ms", limits_.request_deadline.count())}));
    });
  }
  phase_ = Phase::Done;
}

/// The connection stays, since the answer may come yet.
void Connection::give_up() noexcept {
  given_up_ = true;
  deadline_ = Clock::time_point::max();
  guarded([this] { reply(write_refusal({503, unanswered(within_)})); });
  phase_ = Phase::Done;
  ::shutdown(fd_.get(), SHUT_WR);
}

void Connection::receive() {
  std::array<char, kReceiveSize> buffer;  // NOLINT(cppcoreguidelines-pro-type-member-init): recv fills what is used
  const ssize_t length = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
  if (length > 0) return serve({buffer.data(), static_cast<std::size_t>(length)});
  if (length < 0 && would_block()) return;
  if (length < 0) {
    phase_ = Phase::Done;
    return;
  }
  on_end_of_input();
}

/// The client sends no more; it may still read (a half-closed connection).
void Connection::on_end_of_input() {
  if (framer_.state() == HttpFramer::State::Reading) {
    reply(write_refusal({400, "the connection ended in the middle of the request"}));
  }
  phase_ = Phase::Done;
}

void Connection::serve(std::string_view bytes) {
  while (!bytes.empty() && !waiting_ && pending_.empty() && phase_ == Phase::Serving) {
    bytes.remove_prefix(framer_.feed(bytes));
    if (framer_.take_wants_continue()) reply({.bytes = "HTTP/1.1 100 Continue\r\n\r\n"});
    if (framer_.state() == HttpFramer::State::Complete) {
      begin(framer_.take());
    } else if (framer_.state() == HttpFramer::State::Faulty) {
      refused_ = true;
      reply(write_refusal(framer_.fault()));
    }
  }
  if (phase_ == Phase::Serving) unread_ = bytes;
  renew_deadline();
}

void Connection::begin(HttpMessage message) {
  deadline_ = Clock::time_point::max();
  const auto request = read_request(std::move(message));
  if (!request) return reply(request.error());
  form_ = request->form;
  const auto handled = handle(*request);
  if (const auto* response = std::get_if<ApiResponse>(&handled)) return reply(write_reply(*response, form_));
  waiting_ = true;
  if_too_large_ = std::get<AnswerToCome>(handled).if_too_large;
  within_ = std::get<AnswerToCome>(handled).within;
  if (within_.count() != 0) deadline_ = Clock::now() + within_;
}

std::variant<ApiResponse, AnswerToCome> Connection::handle(const ReceivedRequest& request) {
  try {
    return handler_(id_, {.method = request.method, .path = request.path, .body = request.body});
  } catch (const std::exception&) {
    return refusal_response({.status = 500, .fault_message = "Mayfly failed to answer; its log says more"});
  }
}

void Connection::reply(const HttpReply& reply) {
  pending_ += reply.bytes;
  closing_ = closing_ || reply.close;
  send_pending();
}

void Connection::send_pending() {
  while (sent_ < pending_.size()) {
    const ssize_t sent = ::send(fd_.get(), pending_.data() + sent_, pending_.size() - sent_, MSG_NOSIGNAL);
    if (sent < 0 && would_block()) return;
    if (sent < 0) {
      phase_ = Phase::Done;
      return;
    }
    sent_ += static_cast<std::size_t>(sent);
  }
  pending_.clear();
  sent_ = 0;
  if (!closing_) return;
  if (!refused_) {
    phase_ = Phase::Done;
    return;
  }
  phase_ = Phase::Draining;
  ::shutdown(fd_.get(), SHUT_WR);
}

void Connection::drain() {
  std::array<char, kReceiveSize> buffer;  // NOLINT(cppcoreguidelines-pro-type-member-init): its bytes are thrown away
  const ssize_t length = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
  if (length < 0 && would_block()) return;
  if (length > 0) drained_ += static_cast<std::size_t>(length);
  if (length <= 0 || drained_ > kMostDrained) phase_ = Phase::Done;
}

/// A message, or the sending of an answer, has one deadline from its first byte to its last: a client that sends a byte
/// now and then gains nothing by it.
void Connection::renew_deadline() {
  if (waiting_) return;  // begin() has said
  if (idle()) {
    deadline_ = Clock::time_point::max();
  } else if (deadline_ == Clock::time_point::max()) {
    deadline_ = Clock::now() + limits_.request_deadline;
  }
}

}  // namespace mayfly
