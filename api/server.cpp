#include "api/server.h"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <span>
#include <system_error>
#include <utility>

namespace mayfly {
namespace {

/// All that can be ready at once with the default of connections, so that a client is never closed as idle while its
/// request waits unseen.
constexpr std::size_t kEventsAtOnce = 64;
constexpr int kRetryAcceptMs = 100;  // where descriptors or memory are short and no client can make room

}  // namespace

Result<std::unique_ptr<ApiServer>> ApiServer::create(const ApiServerOptions& options, CommandTarget& target) {
  OwnedFd epoll{::epoll_create1(EPOLL_CLOEXEC)};
  if (!epoll) return fail_errno(ErrorKind::System, "cannot make an epoll for the API");
  auto answers = AnswerBox::create(options.max_connections);
  if (!answers) return propagate(answers);
  auto listener = UnixListener::create(options.socket_path);
  if (!listener) return propagate(listener);
  return std::unique_ptr<ApiServer>{
      new ApiServer(options, target, std::move(*listener), std::move(epoll), std::move(*answers))};
}

ApiServer::ApiServer(const ApiServerOptions& options, CommandTarget& target, UnixListener listener, OwnedFd epoll,
                     std::shared_ptr<AnswerBox> answers)
    : options_(options),
      target_(target),
      handler_([this](std::uint64_t connection, const ApiRequest& request) { return begin(connection, request); }),
      listener_(std::make_unique<UnixListener>(std::move(listener))),
      epoll_(std::move(epoll)),
      answers_(std::move(answers)) {
  taken_.reserve(options.max_connections);
}

ApiServer::~ApiServer() { stop(); }

Status ApiServer::start() {
  ensure(!thread_.joinable() && listener_ != nullptr, "the API server is started once");
  tell_epoll(EPOLL_CTL_ADD, answers_->fd(), EPOLLIN | EPOLLET, answers_.get());
  for (const int fd : options_.watched_fds) tell_epoll(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET, &options_.watched_fds);
  listen_again();
  try {
    thread_ = std::thread{[this] { serve(); }};
  } catch (const std::system_error& error) {
    return fail(ErrorKind::System, "cannot start the API's thread: {}", error.what());
  }
  return {};
}

void ApiServer::stop() {
  if (thread_.joinable()) {
    stop_asked_.store(true);
    answers_->wake();
    thread_.join();
  }
  clients_.clear();
  listener_.reset();
}

void ApiServer::serve() {
  // Signals are the main thread's to handle.
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
  ::pthread_setname_np(::pthread_self(), "api");
  if (options_.enter_thread) options_.enter_thread(ThreadKind::Api);
  while (!stopping_ || in_flight_ > 0) {
    // With a command under way the next request is there already, in a way.
    if (serve_events() && in_flight_ == 0) target_.answered();
  }
}

bool ApiServer::serve_events() {
  std::array<epoll_event, kEventsAtOnce> events{};
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), milliseconds_to_wait());
  bool connecting = false;
  bool served = false;
  bool answered = false;
  bool watched = false;
  for (const epoll_event& event : std::span{events}.first(static_cast<std::size_t>(std::max(count, 0)))) {
    void* const whose = event.data.ptr;
    if (whose == answers_.get()) {
      answered = true;
    } else if (whose == &options_.watched_fds) {
      watched = true;
    } else if (whose == listener_.get()) {
      connecting = true;  // after the others: it may close one of them
    } else {
      auto* client = static_cast<Client*>(whose);
      client->connection.on_ready(event.events);
      served = true;
      heard_of(*client);
    }
  }
  if (answered) served = deliver_answers() || served;
  call_watch(watched);
  drop_done_and_late();
  if (connecting) accept_one();
  if (count == 0) listen_again();
  return served;
}

std::variant<ApiResponse, AnswerToCome> ApiServer::begin(std::uint64_t connection, const ApiRequest& request) {
  auto begun = begin_request(request, target_);
  if (auto* response = std::get_if<ApiResponse>(&begun)) return std::move(*response);
  if (machine_hangs()) return refusal_response({503, unanswered(options_.read_deadline)});
  Reply reply{
      [answers = answers_, connection](Result<Answer> answer) { answers->give(connection, std::move(answer)); }};
  ++in_flight_;
  const CommandInfo& info = info_of(std::get<Command>(begun));
  const int if_too_large = status_if_too_large(std::get<Command>(begun));
  const bool counts_pages = std::holds_alternative<GetPrometheusMetrics>(std::get<Command>(begun));
  try {
    target_.submit(std::get<Command>(std::move(begun)), std::move(reply));
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
    // The reply is dropped, which is an answer, too.
  }
  if (info.method != CommandMethod::Get || info.kind != CommandKind::Read)
    return AnswerToCome{.within = {}, .if_too_large = if_too_large};
  return AnswerToCome{.within = counts_pages ? options_.metrics_deadline : options_.read_deadline,
                      .if_too_large = if_too_large};
}

bool ApiServer::deliver_answers() {
  stopping_ = stop_asked_.load();
  answers_->take(taken_);
  for (const AnswerBox::Given& given : taken_) {
    --in_flight_;
    const auto client =
        std::ranges::find(clients_, given.connection, [](Client& each) { return each.connection.id(); });
    ensure(client != clients_.end(), "a connection is kept until it is answered");
    client->connection.answer(given.answer);
    if (!stopping_) client->connection.go_on();
    heard_of(*client);
  }
  return !taken_.empty();
}

void ApiServer::call_watch(bool woken) {
  using Clock = Connection::Clock;
  if (!options_.watch) return;
  if (!woken && (watch_at_ == Clock::time_point::max() || Clock::now() < watch_at_)) return;
  const int wait_ms = options_.watch();
  watch_at_ = wait_ms < 0 ? Clock::time_point::max() : Clock::now() + std::chrono::milliseconds{wait_ms};
}

void ApiServer::heard_of(const Client& client) {
  const auto at = std::ranges::find(clients_, &client, [](Client& each) { return &each; });
  clients_.splice(clients_.end(), clients_, at);
}

/// Descriptors that are watched are open and watched once, so only memory can be short: a client that cannot be watched
/// is one that is not served.
void ApiServer::tell_epoll(int operation, int fd, std::uint32_t events, void* whose) {
  epoll_event event{.events = events, .data = {.ptr = whose}};
  ensure(::epoll_ctl(epoll_.get(), operation, fd, &event) == 0 || errno == ENOMEM || errno == ENOSPC,
         "the API's descriptors can be watched");
}

void ApiServer::listen_again() {
  if (stopping_ || std::exchange(listening_, true)) return;
  tell_epoll(EPOLL_CTL_ADD, listener_->fd(), EPOLLIN, listener_.get());
}

void ApiServer::stop_listening() {
  if (std::exchange(listening_, false)) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener_->fd(), nullptr);
}

/// Then no command is begun, so that those whose clients wait no more are no more than connections.
bool ApiServer::machine_hangs() const {
  return std::ranges::any_of(clients_, [](const Client& each) { return each.connection.given_up(); });
}

bool ApiServer::has_room() const {
  const auto used = std::ranges::count_if(clients_, [](const Client& each) { return !each.connection.given_up(); });
  return static_cast<std::size_t>(used) < options_.max_connections;
}

void ApiServer::accept_one() {
  if (stopping_) return;
  if (has_room() || close_longest_idle()) {
    OwnedFd fd{::accept4(listener_->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
    if (fd) {
      const Connection::Limits limits{.http = {.body = options_.max_payload},
                                      .request_deadline = options_.request_deadline};
      clients_.emplace_back(Connection{++last_id_, std::move(fd), limits, handler_}, EPOLLIN);
      tell_epoll(EPOLL_CTL_ADD, clients_.back().connection.fd(), EPOLLIN, &clients_.back());
      return;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
    if (close_longest_idle()) return;
  }
  // No room now. The newcomer waits in the kernel's queue, without waking us, until a client ends or time has passed.
  stop_listening();
}

bool ApiServer::close_longest_idle() {
  const auto idle = std::ranges::find_if(clients_, [](const Client& each) { return each.connection.idle(); });
  if (idle == clients_.end()) return false;
  drop(idle);
  return true;
}

/// A close alone does not end the watch: a process that was forked meanwhile (a branch, or the holder of a live snapshot's
/// memory) has the connection open until it has closed what it inherited, and epoll would tell of a client that is gone.
std::list<ApiServer::Client>::iterator ApiServer::drop(std::list<Client>::iterator client) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, client->connection.fd(), nullptr);
  return clients_.erase(client);
}

void ApiServer::drop_done_and_late() {
  if (stopping_) stop_listening();
  const auto now = Connection::Clock::now();
  for (auto each = clients_.begin(); each != clients_.end();) {
    Connection& connection = each->connection;
    if (connection.deadline() <= now) connection.on_deadline();
    if (connection.done() || connection.idle() || connection.given_up())
      listen_again();  // there is room for one who waits
    if (connection.done() || (stopping_ && !connection.waiting())) {
      each = drop(each);
      continue;
    }
    if (each->watched != connection.awaited()) {
      each->watched = connection.awaited();
      tell_epoll(EPOLL_CTL_MOD, connection.fd(), each->watched, &*each);
    }
    ++each;
  }
}

int ApiServer::milliseconds_to_wait() const {
  const bool retry_accept = !listening_ && !stopping_;
  auto next = watch_at_;
  for (const Client& each : clients_) next = std::min(next, each.connection.deadline());
  if (next == Connection::Clock::time_point::max()) return retry_accept ? kRetryAcceptMs : -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Connection::Clock::now()).count();
  const auto bounded = std::clamp<decltype(left)>(left, 0, 60'000);
  return static_cast<int>(retry_accept ? std::min<decltype(left)>(bounded, kRetryAcceptMs) : bounded);
}

}  // namespace mayfly
