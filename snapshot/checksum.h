#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

/// XXH3 with 64 bits: finds accidents (a flipped bit, a torn write), not forgery.
namespace mayfly {

[[nodiscard]] std::uint64_t checksum(std::span<const std::byte> bytes) noexcept;

/// The same for bytes that come piece by piece.
class RunningChecksum {
 public:
  RunningChecksum();
  RunningChecksum(const RunningChecksum&) = delete;
  RunningChecksum& operator=(const RunningChecksum&) = delete;
  ~RunningChecksum();

  void begin() noexcept;
  void add(std::span<const std::byte> bytes) noexcept;
  /// Of all that was added since begin().
  [[nodiscard]] std::uint64_t sum() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mayfly
