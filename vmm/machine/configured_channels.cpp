#include "vmm/machine/configured_channels.h"

#include "vmm/base/try.h"

#include <algorithm>
#include <utility>

namespace mayfly {

Status ConfiguredChannels::put(ChannelConfig channel) {
  const auto at = std::ranges::lower_bound(channels_, channel.port, {}, &ChannelConfig::port);
  const auto index = at - channels_.begin();
  const bool replaces = at != channels_.end() && at->port == channel.port;
  if (!replaces && channels_.size() == kMostChannels)
    return fail(ErrorKind::TooLarge, "channel {}: there are {} channels already, and a machine has no room for more",
                channel.port, kMostChannels);
  std::shared_ptr<UnixListener> listener;
  if (replaces && at->listen && channel.listen && at->uds_path == channel.uds_path) return {};  // it is bound already
  if (channel.listen) {
    const auto other = std::ranges::find_if(
        channels_, [&](const ChannelConfig& each) { return each.listen && each.uds_path == channel.uds_path; });
    if (other != channels_.end())
      return fail(ErrorKind::InvalidArgument, "channel {}: uds_path {} is that of channel {}; give each its own",
                  channel.port, channel.uds_path, other->port);
    auto made = UnixListener::create(channel.uds_path, "its socket");
    if (!made) return propagate(made, fmt::format("channel {}", channel.port));
    listener = std::make_shared<UnixListener>(std::move(*made));
  }
  if (!replaces) {
    channels_.emplace(at);
    listeners_.emplace(listeners_.begin() + index);
  }
  channels_[static_cast<std::size_t>(index)] = std::move(channel);
  listeners_[static_cast<std::size_t>(index)] = std::move(listener);
  return {};
}

Status ConfiguredChannels::load(const std::vector<ChannelConfig>& channels,
                                std::span<const ChannelOverride> overrides) {
  for (const ChannelOverride& each : overrides)
    if (std::ranges::find(channels, each.port, &ChannelConfig::port) == channels.end())
      return fail(ErrorKind::NotFound, "channel_overrides: the snapshot has no channel {}", each.port);
  for (ChannelConfig channel : channels) {
    const auto other = std::ranges::find(overrides, channel.port, &ChannelOverride::port);
    if (other != overrides.end()) channel.uds_path = other->uds_path;
    const bool own = other == overrides.end() && channel.listen;
    if (auto set = put(std::move(channel)); !set) {
      if (!own) return set;
      return fail(set.error().kind, "{}; or name another by channel_overrides", set.error().message);
    }
  }
  return {};
}

std::vector<ChannelPlan> ConfiguredChannels::plans() const {
  std::vector<ChannelPlan> plans;
  plans.reserve(channels_.size());
  for (std::size_t i = 0; i < channels_.size(); ++i)
    plans.push_back({.config = channels_[i], .listener = listeners_[i]});
  return plans;
}

}  // namespace mayfly
