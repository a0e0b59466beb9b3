#pragma once

#include "vmm/devices/bus.h"
#include "vmm/devices/guest_signals.h"
#include "vmm/devices/interrupt.h"
#include "vmm/devices/monotonic_clock.h"
#include "vmm/devices/pit.h"
#include "vmm/kvm/message_port.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <vector>

/// What stands around a device in a test: wires, clocks, and a guest that loads and stores.
namespace mayfly::fakes {

/// The guest's `in` (and MMIO load) of a type's width.
template <typename Word = std::uint8_t>
Word load(BusDevice& device, std::uint64_t offset) {
  std::array<std::byte, sizeof(Word)> bytes{};
  device.read(offset, bytes);
  Word value{};
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

/// The guest's `out` (and MMIO store) of a type's width.
template <typename Word = std::uint8_t>
void store(BusDevice& device, std::uint64_t offset, std::type_identity_t<Word> value) {
  std::array<std::byte, sizeof(Word)> bytes{};
  std::memcpy(bytes.data(), &value, sizeof value);
  device.write(offset, bytes);
}

/// Loads and stores of every width all over a device and beyond its end; the same ones for the same seed.
template <typename Between>
void torment(BusDevice& device, unsigned seed, std::uint64_t past_offset, Between between) {
  std::mt19937 random{seed};
  for (unsigned i = 0; i < 20'000; ++i) {
    std::array<std::byte, 8> bytes{};
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    const std::size_t length = std::size_t{1} << (random() % 4);
    const std::uint64_t offset = random() % past_offset;
    if (random() % 2 == 0)
      device.read(offset, std::span{bytes}.first(length));
    else
      device.write(offset, std::span{bytes}.first(length));
    between(static_cast<unsigned>(random()));
  }
}

/// Remembers levels and rising edges of each pin.
class Pins final : public InterruptSink {
 public:
  void set_pin(unsigned pin, bool level) noexcept override {
    if (level && !levels_[pin]) ++edges_[pin];
    levels_[pin] = level;
  }
  [[nodiscard]] bool level(unsigned pin) { return levels_[pin]; }
  /// Edges since the last call.
  [[nodiscard]] unsigned edges(unsigned pin) { return std::exchange(edges_[pin], 0); }

 private:
  std::map<unsigned, bool> levels_;
  std::map<unsigned, unsigned> edges_;
};

class Clock final : public MonotonicClock {
 public:
  [[nodiscard]] std::uint64_t now_ns() const noexcept override { return now; }
  std::uint64_t now = 1'000'000'000'000;
};

/// A timer that remembers its deadline; the test fires it.
class Timer final : public PitTimer {
 public:
  void arm(std::uint64_t deadline_ns) noexcept override {
    deadline = deadline_ns;
    ++times_armed;
  }
  void cancel() noexcept override { deadline.reset(); }
  std::optional<std::uint64_t> deadline;
  unsigned times_armed = 0;
};

class Signals final : public GuestSignals {
 public:
  void reset_requested() noexcept override { ++resets; }
  void power_off_requested() noexcept override { ++power_offs; }
  void guest_panicked() noexcept override { ++panics; }
  void crash_loaded() noexcept override { ++crashes; }
  void guest_booted() noexcept override { ++boots; }
  unsigned resets = 0;
  unsigned power_offs = 0;
  unsigned panics = 0;
  unsigned crashes = 0;
  unsigned boots = 0;
};

/// Messages sent, and which pins are watched.
class Messages final : public MessagePort {
 public:
  void send(const MsiMessage& message) noexcept override { sent.push_back(message); }
  void route(unsigned pin, const std::optional<MsiMessage>& message) noexcept override {
    ++watch_calls;
    if (message)
      watched[pin] = *message;
    else
      watched.erase(pin);
  }
  std::vector<MsiMessage> sent;
  std::map<unsigned, MsiMessage> watched;
  unsigned watch_calls = 0;
};

}  // namespace mayfly::fakes
