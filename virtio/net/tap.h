#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <cstdint>
#include <string>

/// The host's end of a network interface: a TAP that exists already (tun(4); linux/if_tun.h).
///
///   auto tap = Tap::open("tap0");                 // made before: ip tuntap add dev tap0 mode tap
///   read(tap->fd(), ...);                         // one frame, behind a NetHeader of 12 bytes
///
/// Attaching costs microseconds where making one costs a host-wide lock, so a host makes TAPs beforehand. The monitor
/// needs no privileges if the TAP is its user's.
namespace mayfly {

/// What the guest can take from the host unfinished (TUN_F_*).
struct TapOffloads {
  bool checksum = false;  ///< Frames whose checksum is still to be filled in. The others need it.
  bool tso4 = false;
  bool tso6 = false;
  bool ecn = false;  ///< Needs tso4 or tso6.
  bool uso = false;  ///< UDP over IPv4 and IPv6.
  friend bool operator==(const TapOffloads&, const TapOffloads&) = default;
};

/// Move-only. Its members may be used on any thread, one at a time.
class Tap {
 public:
  /// Attaches to the TAP `name`, one queue of it if it has several; creates nothing. Errors, each with its remedy: a
  /// name that no interface can have, no such interface, one that is no TAP, busy, another user's, a host without TUN.
  [[nodiscard]] static Result<Tap> open(const std::string& name);
  /// A descriptor that keeps message borders as a TAP does: for tests, on a socket pair. Has all offloads. One without
  /// `nowait` must be non-blocking, and stands for a TAP before Linux 6.2: it has no USO either.
  [[nodiscard]] static Tap adopt(OwnedFd fd, std::string name, bool nowait = true);

  /// For an interface without a network: no descriptor, no name, and nothing to set.
  [[nodiscard]] static Tap none();

  /// The same open TAP once more. Error: no descriptors left.
  [[nodiscard]] Result<Tap> duplicate() const;

  /// Whether it is one: not none().
  [[nodiscard]] bool exists() const noexcept { return static_cast<bool>(fd_); }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// Whether the host segments UDP (Linux 6.2).
  [[nodiscard]] bool has_uso() const noexcept { return has_uso_; }
  /// Whether a read or write can be told not to wait while others do (RWF_NOWAIT; Linux 6.4). Where not, the
  /// descriptor is non-blocking: a read without a frame fails with EAGAIN.
  [[nodiscard]] bool has_nowait() const noexcept { return has_nowait_; }

  /// What the host may leave unfinished in frames from now on. Waits for a lock of the host's, so not on the loop's
  /// thread; returns at once where nothing changes. Error: the TAP is gone.
  [[nodiscard]] Status set_offloads(const TapOffloads& offloads);
  /// Whether it would have to ask the host.
  [[nodiscard]] bool would_change(const TapOffloads& offloads) const noexcept {
    return exists() && flags_for(offloads) != flags_;
  }

 private:
  Tap(OwnedFd fd, std::string name) noexcept : fd_(std::move(fd)), name_(std::move(name)) {}
  [[nodiscard]] Status set_up();
  [[nodiscard]] unsigned flags_for(const TapOffloads& offloads) const noexcept;

  OwnedFd fd_;
  std::string name_;
  bool is_tap_ = true;  // not adopted
  bool has_uso_ = false;
  bool has_nowait_ = true;
  unsigned flags_ = 0;  // TUN_F_*, as they are set
};

}  // namespace mayfly
