#pragma once

#include "rootfs-tools/agent/tree.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>

namespace mayfly::agent {

struct AgentClientOptions {
  /// How long the agent may take to answer: its guest may still boot.
  std::chrono::milliseconds patience = std::chrono::seconds{30};
  /// That listens at the socket; 0: any.
  pid_t process = 0;
  /// See FrameStream.
  int cancel = -1;
};

/// A connection to a port of the guest.
struct RawConnection {
  OwnedFd socket;
  std::string first;  ///< What has come already.
};

/// Asks the agent of a guest, at the Unix socket of a channel on which its monitor listens. Each request is a connection.
///
///   const AgentClient agent{"/run/vm/agent.sock"};
///   TRY(agent.ping());
///   auto counts = TRY(agent.get("/var/log", "logs", {}));
class AgentClient {
 public:
  explicit AgentClient(std::string socket_path, AgentClientOptions options = {});

  [[nodiscard]] Status ping() const;
  /// The guest begins to shut down: its program gets the stop signal of its image, and has `time` then, in whole seconds.
  [[nodiscard]] Status power_off(std::chrono::seconds time) const;
  /// To 127.0.0.1 in the guest. Waits until somebody listens there, for `wait` at most.
  [[nodiscard]] Result<RawConnection> connect(std::uint16_t port, std::chrono::milliseconds wait) const;
  /// Copies a tree out of the guest. Set-id bits are cleared.
  [[nodiscard]] Result<TreeCounts> get(const std::string& guest_path, const std::string& host_path,
                                       const TreeHooks& hooks) const;
  /// Copies a tree into the guest.
  [[nodiscard]] Status put(const std::string& host_path, const std::string& guest_path, const TreeHooks& hooks) const;

  /// A connection on which this request was sent.
  [[nodiscard]] Result<FrameStream> send(FrameType request, std::string_view payload) const;
  /// The first answer. Errors: there is none in time.
  [[nodiscard]] Result<Frame> first_answer(FrameStream& stream) const;

 private:
  /// The same, where DONE was the first answer.
  [[nodiscard]] Result<FrameStream> ask(FrameType request, std::string_view payload) const;
  [[nodiscard]] Result<OwnedFd> connect() const;

  std::string socket_path_;
  AgentClientOptions options_;
};

}  // namespace mayfly::agent
