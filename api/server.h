#pragma once

#include "api/answer_box.h"
#include "api/connection.h"
#include "vmm/base/owned_fd.h"
#include "vmm/base/thread_kind.h"
#include "vmm/base/unix_listener.h"
#include "vmm/machine/command.h"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

/// The API on its Unix socket: one thread, one epoll, any number of clients up to a bound.
///
///   auto server = ApiServer::create({.socket_path = "/run/mayfly/vm.sock"}, controller);
///   if (!server) return propagate(server);
///   if (auto started = (*server)->start(); !started) return started;
///   ...
///   (*server)->stop();   // or the destructor
///
/// The thread waits for clients, for the machine's answers and for nothing else. A request is submitted to the machine,
/// and its connection waits for the answer; the others are served meanwhile, also where one command takes minutes. A
/// read that a machine leaves unanswered is refused, since nobody should wait for a thread that hangs. A
/// client that is idle, slow, or does not read its answers costs a buffer. An idle API does not wake up.
namespace mayfly {

struct ApiServerOptions {
  std::string socket_path;
  std::size_t max_payload = 51'200;  ///< Bytes of a request's body.
  std::chrono::milliseconds request_deadline{
      5000};  ///< From a request's first byte to its last; as long for its answer.
  /// For the machine's answer to a GET, which it gives at once unless its thread hangs. Until that answer has come, all
  /// other commands are refused.
  std::chrono::milliseconds read_deadline{5000};
  /// The same for a GET of metrics: longer where the pages of guest memory are counted first.
  std::chrono::milliseconds metrics_deadline{5000};
  std::size_t max_connections = 32;  ///< The next one closes the one that is idle longest, or waits until one ends.
  ThreadEntry enter_thread{};        ///< Called by the thread once it is set up, before it hears of any client.
  /// Descriptors that wake the thread when they become readable, edge-triggered: it does not read them. Reading one
  /// before the thread has looked loses the wake-up. They must stay open until stop() has returned.
  std::vector<int> watched_fds{};
  /// Called by the thread, whatever clients do: when one of `watched_fds` has become readable, and when the time that
  /// it asked for has come. Returns the milliseconds until it is to be called again, or -1. Must not block.
  std::function<int()> watch{};
};

class ApiServer {
 public:
  /// Makes the socket and listens: clients can connect from here on, and are answered after start().
  /// `target` must outlive the server. Errors: see UnixListener::create; no descriptors left.
  [[nodiscard]] static Result<std::unique_ptr<ApiServer>> create(const ApiServerOptions& options,
                                                                 CommandTarget& target);

  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;
  ~ApiServer();

  /// Starts the thread that serves; it has all signals blocked. Once. Error: no thread can be made.
  [[nodiscard]] Status start();
  /// Begins no further request, waits until those that were submitted are answered (or dropped by the machine), closes
  /// all connections and removes the socket file. From neither the server's own thread nor, unless the loop is closed,
  /// the machine's. May be called twice.
  void stop();

 private:
  ApiServer(const ApiServerOptions& options, CommandTarget& target, UnixListener listener, OwnedFd epoll,
            std::shared_ptr<AnswerBox> answers);

  struct Client {
    Connection connection;
    std::uint32_t watched;
  };

  void serve();
  /// True where a client was served.
  bool serve_events();
  std::variant<ApiResponse, AnswerToCome> begin(std::uint64_t connection, const ApiRequest& request);
  bool deliver_answers();
  void call_watch(bool woken);
  void tell_epoll(int operation, int fd, std::uint32_t events, void* whose);
  void heard_of(const Client& client);
  [[nodiscard]] bool machine_hangs() const;
  [[nodiscard]] bool has_room() const;
  void accept_one();
  void drop_done_and_late();
  bool close_longest_idle();
  std::list<Client>::iterator drop(std::list<Client>::iterator client);
  void listen_again();
  void stop_listening();
  [[nodiscard]] int milliseconds_to_wait() const;

  ApiServerOptions options_;
  CommandTarget& target_;
  RequestHandler handler_;
  std::unique_ptr<UnixListener> listener_;
  OwnedFd epoll_;
  std::shared_ptr<AnswerBox> answers_;
  std::vector<AnswerBox::Given> taken_;  // of answers_, while they are delivered
  std::size_t in_flight_ = 0;            // commands that were submitted and are not answered
  std::uint64_t last_id_ = 0;            // of a connection
  std::list<Client> clients_;            // the one heard of longest ago first
  bool listening_ = false;               // the listener is in the epoll
  Connection::Clock::time_point watch_at_ = Connection::Clock::time_point::max();
  std::atomic<bool> stop_asked_{false};
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace mayfly
