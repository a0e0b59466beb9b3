#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <string_view>

namespace mayfly {

/// What the monitor's threads are for: each kind has a system call filter of its own. Running is the loop's thread
/// again, once its machine runs (or waits paused after a load): its filter comes on top of Loop's. Revertible is
/// Running of a machine that was loaded so that it can go back to its snapshot; Live and LiveRevertible are those two in
/// a process that may take live snapshots (--live-snapshots); those that begin with Channels are these four of a machine
/// that has channels. Brancher makes the children of a process that may have
/// some (--branches), and is their first thread: what they do until they have their own filters, it may.
enum class ThreadKind {
  Loop,
  Api,
  Vcpu,
  Recorder,
  Brancher,
  Running,
  Revertible,
  Live,
  LiveRevertible,
  Channels,
  ChannelsRevertible,
  ChannelsLive,
  ChannelsLiveRevertible,
};

/// By their values; the names that filters have in jailer/seccomp/filters.txt.
inline constexpr std::array<std::string_view, 13> kThreadNames = {"loop",
                                                                  "api",
                                                                  "vcpu",
                                                                  "recorder",
                                                                  "brancher",
                                                                  "running",
                                                                  "revertible",
                                                                  "live",
                                                                  "live_revertible",
                                                                  "channels",
                                                                  "channels_revert",
                                                                  "channels_live",
                                                                  "channels_all"};

/// Whether it is the loop's thread once its machine runs.
[[nodiscard]] constexpr bool is_of_running_machine(ThreadKind kind) noexcept { return kind >= ThreadKind::Running; }

/// What a running machine's loop does beside what every one does.
struct RunningTraits {
  bool reverts = false;
  bool takes_live_snapshots = false;
  bool has_channels = false;
};
[[nodiscard]] constexpr ThreadKind running_kind(const RunningTraits& traits) noexcept {
  return static_cast<ThreadKind>(static_cast<unsigned>(ThreadKind::Running) + (traits.reverts ? 1U : 0U) +
                                 (traits.takes_live_snapshots ? 2U : 0U) + (traits.has_channels ? 4U : 0U));
}
/// Of such a kind; of others nothing.
[[nodiscard]] constexpr RunningTraits traits_of(ThreadKind kind) noexcept {
  if (!is_of_running_machine(kind)) return {};
  const unsigned bits = static_cast<unsigned>(kind) - static_cast<unsigned>(ThreadKind::Running);
  return {.reverts = (bits & 1U) != 0, .takes_live_snapshots = (bits & 2U) != 0, .has_channels = (bits & 4U) != 0};
}

[[nodiscard]] constexpr std::string_view name_of(ThreadKind kind) noexcept {
  return kThreadNames[static_cast<std::size_t>(kind)];
}

/// Called by a thread once it is set up, before it serves anybody; by the loop's with Running or one of its kin, too. Does
/// not return where it must not go on.
using ThreadEntry = std::function<void(ThreadKind)>;

}  // namespace mayfly
