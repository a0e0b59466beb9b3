#include "api/server.h"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
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
  OwnedFd stop_event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!stop_event) return fail_errno(ErrorKind::System, "cannot make an eventfd for the API");
  auto listener = UnixListener::create(options.socket_path);
  if (!listener) return propagate(listener);
  return std::unique_ptr<ApiServer>{
      new ApiServer(options, target, std::move(*listener), std::move(epoll), std::move(stop_event))};
}

ApiServer::ApiServer(const ApiServerOptions& options, CommandTarget& target, UnixListener listener, OwnedFd epoll,
                     OwnedFd stop_event)
    : options_(options),
      target_(target),
      engine_([&target](const ApiRequest& request) { return answer_request(request, target); }),
      listener_(std::make_unique<UnixListener>(std::move(listener))),
      epoll_(std::move(epoll)),
      stop_event_(std::move(stop_event)) {}

ApiServer::~ApiServer() { stop(); }

Status ApiServer::start() {
  ensure(!thread_.joinable() && listener_ != nullptr, "the API server is started once");
  watch(EPOLL_CTL_ADD, stop_event_.get(), EPOLLIN, &stop_event_);
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
    ::eventfd_write(stop_event_.get(), 1);
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
  while (!stopping_) {
    if (serve_events()) target_.answered();
  }
}

bool ApiServer::serve_events() {
  std::array<epoll_event, kEventsAtOnce> events{};
  const int count =
      ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), milliseconds_to_next_deadline());
  bool connecting = false;
  bool served = false;
  for (int i = 0; i < count; ++i) {
    void* const whose = events[static_cast<std::size_t>(i)].data.ptr;
    if (whose == &stop_event_) {
      stopping_ = true;
    } else if (whose == listener_.get()) {
      connecting = true;  // after the others: it may close one of them
    } else {
      auto* client = static_cast<Client*>(whose);
      client->connection.on_ready();
      served = true;
      const auto at = std::ranges::find(clients_, client, [](Client& each) { return &each; });
      clients_.splice(clients_.end(), clients_, at);
    }
  }
  drop_done_and_late();
  if (connecting) accept_one();
  if (count == 0) listen_again();
  return served;
}

/// Descriptors that are watched are open and watched once, so only memory can be short: a client that cannot be watched
/// is one that is not served.
void ApiServer::watch(int operation, int fd, std::uint32_t events, void* whose) {
  epoll_event event{.events = events, .data = {.ptr = whose}};
  ensure(::epoll_ctl(epoll_.get(), operation, fd, &event) == 0 || errno == ENOMEM || errno == ENOSPC,
         "the API's descriptors can be watched");
}

void ApiServer::listen_again() {
  if (!std::exchange(listening_, true)) watch(EPOLL_CTL_ADD, listener_->fd(), EPOLLIN, listener_.get());
}

void ApiServer::accept_one() {
  if (clients_.size() < options_.max_connections || close_longest_idle()) {
    OwnedFd fd{::accept4(listener_->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
    if (fd) {
      const Connection::Limits limits{.http = {.body = options_.max_payload},
                                      .request_deadline = options_.request_deadline};
      clients_.emplace_back(Connection{std::move(fd), limits, engine_}, EPOLLIN);
      watch(EPOLL_CTL_ADD, clients_.back().connection.fd(), EPOLLIN, &clients_.back());
      return;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
    if (close_longest_idle()) return;
  }
  // No room now. The newcomer waits in the kernel's queue, without waking us, until a client ends or time has passed.
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener_->fd(), nullptr);
  listening_ = false;
}

bool ApiServer::close_longest_idle() {
  const auto idle = std::ranges::find_if(clients_, [](const Client& each) { return each.connection.idle(); });
  if (idle == clients_.end()) return false;
  clients_.erase(idle);
  return true;
}

void ApiServer::drop_done_and_late() {
  const auto now = Connection::Clock::now();
  for (auto each = clients_.begin(); each != clients_.end();) {
    Connection& connection = each->connection;
    if (connection.deadline() <= now) connection.on_deadline();
    if (connection.done() || connection.idle()) listen_again();  // there is room for one who waits
    if (connection.done()) {
      each = clients_.erase(each);
      continue;
    }
    if (each->watched != connection.awaited()) {
      each->watched = connection.awaited();
      watch(EPOLL_CTL_MOD, connection.fd(), each->watched, &*each);
    }
    ++each;
  }
}

int ApiServer::milliseconds_to_next_deadline() const {
  auto next = Connection::Clock::time_point::max();
  for (const Client& each : clients_) next = std::min(next, each.connection.deadline());
  if (next == Connection::Clock::time_point::max()) return listening_ ? -1 : kRetryAcceptMs;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Connection::Clock::now()).count();
  const auto bounded = std::clamp<decltype(left)>(left, 0, 60'000);
  return static_cast<int>(listening_ ? bounded : std::min<decltype(left)>(bounded, kRetryAcceptMs));
}

}  // namespace mayfly
