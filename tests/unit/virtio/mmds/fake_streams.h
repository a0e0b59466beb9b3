#pragma once

#include "virtio/mmds/host_streams.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

/// The host's ends of channels, which a test speaks for: port 1000 has a listener unless the test says otherwise,
/// and at port 1002 the guest waits for a process of the host.
namespace mayfly::testing {

class FakeStream final : public HostStream {
 public:
  std::string to_guest{};  ///< What take() gives room for next; set by say().
  std::string from_guest{};
  std::size_t takes = kBytes;  ///< How much the host takes before it is slow.
  bool taken = false;          ///< In use.
  bool waits = false;          ///< For a process of the host to come, until the test says otherwise.
  bool host_ended = false;
  bool host_gone = false;
  bool guest_finished = false;
  std::optional<bool> closed{};  ///< With what close() was called.

  void say(std::string text) { to_guest += text; }

  [[nodiscard]] std::span<const std::uint8_t> incoming() const noexcept override {
    return {reinterpret_cast<const std::uint8_t*>(to_guest.data()), std::min(to_guest.size(), kPiece)};
  }
  void take() noexcept override { to_guest.erase(0, kPiece); }
  [[nodiscard]] bool ended() const noexcept override { return host_ended && to_guest.empty(); }
  [[nodiscard]] bool gone() const noexcept override { return host_gone; }
  [[nodiscard]] std::size_t room() const noexcept override { return takes; }
  void push(std::span<const std::uint8_t> bytes) noexcept override {
    from_guest.append(bytes.begin(), bytes.end());
    takes -= bytes.size();
  }
  void finish() noexcept override {
    guest_finished = true;
    if (waits && from_guest.empty()) host_ended = host_gone = true;
  }
  void close(bool flush) noexcept override {
    closed = flush;
    taken = false;
  }
};

class FakeStreams final : public HostStreams {
 public:
  std::array<FakeStream, 32> streams{};
  std::optional<Refusal> refusal{};
  std::size_t opened = 0;

  void set_caller(Caller /*caller*/) noexcept override {}
  [[nodiscard]] std::expected<HostStream*, Refusal> open(std::uint16_t port) noexcept override {
    if (port != 1000 && port != 1002) return std::unexpected(Refusal::NoChannel);
    if (refusal) return std::unexpected(*refusal);
    const auto free = std::ranges::find(streams, false, &FakeStream::taken);
    if (free == streams.end()) return std::unexpected(Refusal::Busy);
    *free = {};
    free->taken = true;
    free->waits = port == 1002;
    ++opened;
    return &*free;
  }
  [[nodiscard]] std::size_t open_count() const {
    return static_cast<std::size_t>(std::ranges::count(streams, true, &FakeStream::taken));
  }
};

}  // namespace mayfly::testing
