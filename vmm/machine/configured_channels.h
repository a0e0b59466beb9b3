#pragma once

#include "vmm/base/error.h"
#include "vmm/base/unix_listener.h"
#include "vmm/machine/virtio_devices.h"

#include <memory>
#include <span>
#include <vector>

/// The channels that are configured, with the sockets of those that listen: bound when they are configured, so that
/// errors are reported at once, and removed when nobody has them any more.
///
///   ConfiguredChannels channels;
///   channels.put(channel);              // an error leaves everything as it was
///   plan.devices.channels = channels.plans();
namespace mayfly {

/// For the loop's thread. Every error names the channel by its port.
class ConfiguredChannels {
 public:
  /// Adds a channel, or replaces the one of the same port. Errors: a socket that cannot be made, the path of another
  /// channel that listens, more than kMostChannels.
  [[nodiscard]] Status put(ChannelConfig channel);
  /// Those of a snapshot, with other sockets. Errors: as put(); an override of a channel that is not there.
  [[nodiscard]] Status load(const std::vector<ChannelConfig>& channels, std::span<const ChannelOverride> overrides);

  /// By their ports.
  [[nodiscard]] const std::vector<ChannelConfig>& all() const noexcept { return channels_; }
  [[nodiscard]] bool empty() const noexcept { return channels_.empty(); }
  /// The machine's, which shares the sockets.
  [[nodiscard]] std::vector<ChannelPlan> plans() const;

 private:
  std::vector<ChannelConfig> channels_;
  std::vector<std::shared_ptr<UnixListener>> listeners_;  // as channels_; null: it does not listen
};

}  // namespace mayfly
