#pragma once

#include "vmm/io/event_loop.h"

#include <vector>

/// When a machine's transports look for requests, publish used chains and interrupt their drivers. One a machine.
///
/// Whatever devices complete in one round of the loop is published at its end: one write of the used index and one
/// interrupt a device. Interrupts leave through the ring, with whatever else is due, and wait for what completes at
/// once, within limits: a driver that is woken finds all that has come, and need not be woken for it again. A driver
/// whose requests come one by one is polled for a short while before the loop waits, since a kick and its wake-up cost
/// several times that.
///
/// Members are for the loop's thread.
namespace mayfly {

class VirtioService final : private BeforeWait {
 public:
  /// A transport, as the service sees it. Calls come on the loop's thread, between completions and the loop's wait.
  class Client {
   public:
    enum class Found { Nothing, Little, Plenty };
    Client() = default;
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;
    /// Publishes what was used since the last time, and interrupts where the driver wants it.
    virtual void publish_used() noexcept = 0;
    /// Looks for new requests and begins them.
    virtual Found busy_poll() noexcept = 0;
    /// Nobody looks any more: asks to be kicked, and begins what has come meanwhile.
    virtual void stop_polling() noexcept = 0;

   protected:
    ~Client() = default;

   private:
    friend class VirtioService;
    bool publish_due_ = false;
    bool polled_ = false;
  };

  /// `loop` has no other hook, and outlives the service.
  explicit VirtioService(EventLoop& loop) noexcept : loop_(loop) { loop.set_before_wait(this); }
  ~VirtioService() { loop_.set_before_wait(nullptr); }

  [[nodiscard]] EventLoop& loop() noexcept { return loop_; }

  /// Client::publish_used() follows once, before the loop waits.
  void publish_later(Client& client);
  /// Adds one to the event descriptor of an interrupt before the loop waits. False: it was due already.
  bool interrupt(int event_fd);
  /// Before the loop waits, the client may be polled for a short while: worth it for one that is served one request at
  /// a time. While that does not pay, it is done ever more rarely; Found::Plenty ends it, since waiting makes batches,
  /// which are cheaper still. stop_polling() always follows.
  void poll_before_wait(Client& client);
  /// Takes back what interrupt() has asked for and was not done yet.
  void forget_interrupt(int event_fd) noexcept;
  /// Before the client is destroyed: drops what is due for it.
  void forget(Client& client) noexcept;

 private:
  void before_wait() noexcept override;
  void publish();
  /// While interrupts are due, serves operations on files that complete at once.
  void serve_prompt_completions();
  void send_interrupts();
  void busy_poll();
  /// One look at every polled client: Nothing where none had anything.
  [[nodiscard]] Client::Found poll_each();
  void stop_polling();

  EventLoop& loop_;
  std::vector<Client*> publishers_;  // who has something to publish
  std::vector<Client*> publishing_;  // the same, while publish() calls them
  std::vector<int> interrupts_;      // event descriptors, each once
  std::vector<Client*> polled_;
  unsigned polls_to_skip_ = 0;  // waits before which nobody is polled
  unsigned next_skip_ = 1;      // how many, after the next polling in vain
};

}  // namespace mayfly
