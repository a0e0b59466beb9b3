#pragma once

#include "vmm/base/metrics.h"
#include "vmm/base/mutex.h"
#include "vmm/config/configuration.h"
#include "vmm/devices/monotonic_clock.h"
#include "vmm/devices/serial.h"
#include "vmm/io/token_bucket.h"

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

namespace mayfly {

inline constexpr std::size_t kSerialOutputCapacity = std::size_t{64} * 1024;

/// Writes the buffer out; is called when there is something to write.
class FlushRequest {
 public:
  FlushRequest() = default;
  FlushRequest(const FlushRequest&) = delete;
  FlushRequest& operator=(const FlushRequest&) = delete;
  virtual ~FlushRequest() = default;
  /// Bytes came into an empty buffer. Once until the buffer is empty again; on a vCPU thread, without the buffer's
  /// lock: wake the loop.
  virtual void flush_wanted() noexcept = 0;
  /// What is in the buffer is a whole: write it now rather than together with what follows. On a vCPU thread, without
  /// the buffer's lock.
  virtual void burst_ended() noexcept = 0;
};

/// The bytes between a guest's console and the file or terminal that they go to: bounded, so that a reader that stops
/// can neither block a vCPU nor fill the host.
///
///   SerialOutputBuffer buffer{config.rate_limiter, clock, metrics.uart, flush_request};
///   Serial serial{line, buffer, input_port};
///   ...
///   for (auto bytes = buffer.front(); !bytes.empty(); bytes = buffer.front())   // loop thread, after flush_wanted()
///     buffer.consume(write_some(bytes));                                        // a short write: go on when writable
///
/// What finds the buffer full, or exceeds the rate, is dropped and counted. put() on any thread; front() and consume()
/// on one, the loop's. All memory is allocated at construction, and becomes resident only as far as it is used.
class SerialOutputBuffer final : public SerialOutput {
 public:
  /// Counts in `metrics`: write_count, dropped_bytes (found the buffer full), rate_limiter_dropped_bytes.
  SerialOutputBuffer(const std::optional<TokenBucketConfig>& rate, const MonotonicClock& clock, UartMetrics& metrics,
                     FlushRequest& flush_request);

  void put(std::byte byte) noexcept override;
  void flush() noexcept override;

  /// The oldest bytes that lie in one piece; empty: nothing to write. They stay in place until consumed.
  [[nodiscard]] std::span<const std::byte> front() const noexcept;
  /// Takes the first `count` bytes of front() away, at most those that are there.
  void consume(std::size_t count) noexcept;

 private:
  const MonotonicClock& clock_;
  UartMetrics& metrics_;
  FlushRequest& flush_request_;
  std::unique_ptr<std::byte[]> bytes_;

  mutable Mutex mutex_;
  std::optional<TokenBucket> rate_ GUARDED_BY(mutex_);
  std::size_t first_ GUARDED_BY(mutex_) = 0;
  std::size_t count_ GUARDED_BY(mutex_) = 0;
};

}  // namespace mayfly
