#pragma once

#include "vmm/base/owned_fd.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// TAPs in a network namespace of the test's own, and raw access to their frames. Needs CAP_NET_ADMIN (root).
///
///   if (const auto why = enter_fresh_network()) GTEST_SKIP() << *why;
///   TapInterface tap{"tap0"};               // created, up; the monitor attaches to it by its name
///   tap.send(frame); auto answer = tap.receive();
namespace mayfly::testing {

/// Moves this process (and its children) into an empty network namespace; why not, where it is not permitted.
[[nodiscard]] std::optional<std::string> enter_fresh_network();

/// Waits until the host sends on an interface. A TAP that was just attached has its carrier at once, but the kernel
/// makes its queue ready a moment later, and drops in silence what is sent before. Throws at the deadline.
void await_running(const std::string& name);

using Frame = std::vector<std::uint8_t>;

/// A persistent TAP; removed when it goes out of scope. Without IPv6, so that nobody but the test sends through it.
class TapInterface {
 public:
  enum class Queues { One, Many };
  static constexpr std::uint16_t kEveryProtocol = 3;  // ETH_P_ALL
  /// `protocol`: which of the guest's frames receive() gets (an EtherType).
  explicit TapInterface(std::string name, int mtu = 1500, std::uint16_t protocol = kEveryProtocol,
                        Queues queues = Queues::One);
  TapInterface(const TapInterface&) = delete;
  TapInterface& operator=(const TapInterface&) = delete;
  ~TapInterface();

  /// What the host sends: the guest receives it.
  void send(const Frame& frame);
  /// The next frame that the guest has sent. Throws at a deadline.
  [[nodiscard]] Frame receive();
  /// Takes the interface away under whoever uses it.
  void remove();
  void set_up(bool up);
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// The packet socket behind send() and receive().
  [[nodiscard]] int packets() const noexcept { return packets_.get(); }

 private:
  std::string name_;
  Queues queues_;
  OwnedFd packets_;
};

}  // namespace mayfly::testing
