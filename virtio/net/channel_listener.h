#pragma once

#include "vmm/base/log.h"
#include "vmm/base/owned_fd.h"
#include "vmm/io/event_loop.h"

#include <deque>
#include <functional>
#include <string>

/// The socket of a channel that listens: a host's process that connects gets the guest's connection that has waited
/// longest. One for all interfaces of the machine.
///
///   listener.wait(waiter);      // a connection of the guest
///   listener.forget(waiter);    // which has ended
///
/// While none waits nothing is accepted: hosts' processes wait in the socket's backlog. The ring waits for them and
/// accept4(2) takes them, which the filter sees and grants to machines that have channels alone; and what is cancelled
/// has not accepted anybody yet.
namespace mayfly {

/// Members are for the loop's thread.
class ChannelListener {
 public:
  class Waiter {
   public:
    /// Takes the socket that `accept` gives, if it gives one. Who wants none any more does not ask: a host's process
    /// that was accepted cannot wait on. Under no lock.
    virtual void take_host(const std::function<OwnedFd()>& accept) noexcept = 0;

   protected:
    ~Waiter() = default;
  };

  /// `fd` is a listening socket that does not block, and outlives this, as all of these do. Destroyed not before
  /// EventLoop::close() where it has been in use.
  ChannelListener(int fd, std::string name, EventLoop& loop, Log& log);

  void wait(Waiter& waiter);
  void forget(const Waiter& waiter) noexcept;

 private:
  void on_ready(int result) noexcept;
  void accept_for_waiters() noexcept;
  void poll() noexcept;

  const int fd_;
  const std::string name_;
  EventLoop& loop_;
  Log& log_;
  LogRate log_rate_{};
  std::deque<Waiter*> waiters_;  // at most the places of the interfaces
  CallbackOperation ready_;
  bool in_flight_ = false;
  bool cancelled_ = false;
};

}  // namespace mayfly
