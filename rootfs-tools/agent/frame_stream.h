#pragma once

#include "rootfs-tools/agent/protocol.h"
#include "vmm/base/owned_fd.h"

#include <chrono>
#include <optional>
#include <string_view>

namespace mayfly::agent {

/// Frames over a connected socket, for who has nothing else to do meanwhile. Each call waits.
class FrameStream {
 public:
  using Deadline = std::chrono::steady_clock::time_point;

  /// `cancel`: a descriptor that ends every call but poll() with an error once it can be read; -1: none. Stays the
  /// caller's.
  explicit FrameStream(OwnedFd socket, int cancel = -1);

  /// Errors: the connection has ended.
  [[nodiscard]] Status send(FrameType type, std::string_view payload = {});
  /// Valid until the next call. Errors: the connection has ended, or has said what is no frame; `deadline` has passed.
  [[nodiscard]] Result<Frame> receive(std::optional<Deadline> deadline = std::nullopt);
  /// The same, but nothing where no whole frame is here yet.
  [[nodiscard]] Result<std::optional<Frame>> poll();
  /// Says that nothing follows, and waits until the peer has hung up, or for a while: a socket that is closed before
  /// all was read resets the connection, and the peer may lose what we said last.
  void finish();

  [[nodiscard]] int fd() const noexcept { return socket_.get(); }
  [[nodiscard]] FrameReader& reader() noexcept { return reader_; }
  [[nodiscard]] OwnedFd take_socket() noexcept { return std::move(socket_); }

 private:
  [[nodiscard]] Status wait(short events, std::optional<Deadline> deadline);
  /// A peer that never keeps us waiting does not keep us from being interrupted either.
  [[nodiscard]] Status check_cancel() const;
  /// Whether bytes came; false: none are here. An error at the connection's end.
  [[nodiscard]] Result<bool> read_some();

  OwnedFd socket_;
  int cancel_;
  FrameReader reader_;
};

}  // namespace mayfly::agent
