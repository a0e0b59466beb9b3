#pragma once

#include "api/connection.h"
#include "api/http_engine.h"
#include "api/unix_listener.h"
#include "vmm/base/owned_fd.h"
#include "vmm/base/thread_kind.h"
#include "vmm/machine/command.h"

#include <chrono>
#include <cstddef>
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
/// A request is carried out where it was read, one at a time and in the order of arrival, as the machine's loop carries
/// out commands anyway. Waiting for a client never blocks: one that is idle, slow, or does not read its answers costs a
/// buffer, and others are served meanwhile. An idle API does not wake up.
namespace mayfly {

struct ApiServerOptions {
  std::string socket_path;
  std::size_t max_payload = 51'200;  ///< Bytes of a request's body.
  std::chrono::milliseconds request_deadline{
      5000};                         ///< From a request's first byte to its last; as long for its answer.
  std::size_t max_connections = 32;  ///< The next one closes the one that is idle longest, or waits until one ends.
  ThreadEntry enter_thread{};        ///< Called by the thread once it is set up, before it hears of any client.
  std::vector<int> watched_fds{};
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
  /// Waits for the request that is being carried out, if any, closes all connections and removes the socket file. From
  /// any thread but the server's own, hence never from CommandTarget::execute. May be called twice.
  void stop();

 private:
  ApiServer(const ApiServerOptions& options, CommandTarget& target, UnixListener listener, OwnedFd epoll,
            OwnedFd stop_event);

  void serve();
  /// True where a client was served.
  bool serve_events();
  void watch(int operation, int fd, std::uint32_t events, void* whose);
  void accept_one();
  void drop_done_and_late();
  bool close_longest_idle();
  void listen_again();
  [[nodiscard]] int milliseconds_to_next_deadline() const;

  struct Client {
    Connection connection;
    std::uint32_t watched;
  };

  ApiServerOptions options_;
  CommandTarget& target_;
  HttpEngine engine_;
  std::unique_ptr<UnixListener> listener_;
  OwnedFd epoll_;
  OwnedFd stop_event_;
  std::list<Client> clients_;  // the one heard of longest ago first
  bool listening_ = false;     // the listener is in the epoll
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace mayfly
