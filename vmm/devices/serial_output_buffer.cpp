#include "vmm/devices/serial_output_buffer.h"

#include <algorithm>

namespace mayfly {

SerialOutputBuffer::SerialOutputBuffer(const std::optional<TokenBucketConfig>& rate, const MonotonicClock& clock,
                                       UartMetrics& metrics, FlushRequest& flush_request)
    : clock_(clock),
      metrics_(metrics),
      flush_request_(flush_request),
      bytes_(std::make_unique_for_overwrite<std::byte[]>(kSerialOutputCapacity)) {
  if (rate) rate_.emplace(*rate, clock.now_ns());
}

void SerialOutputBuffer::put(std::byte byte) noexcept {
  bool was_empty = false;
  {
    const MutexLock lock{mutex_};
    if (count_ == kSerialOutputCapacity) {
      metrics_.dropped_bytes.add();
      return;
    }
    if (rate_ && !rate_->take(1, clock_.now_ns())) {
      metrics_.rate_limiter_dropped_bytes.add();
      return;
    }
    was_empty = count_ == 0;
    bytes_[(first_ + count_) % kSerialOutputCapacity] = byte;
    ++count_;
  }
  metrics_.write_count.add();
  if (was_empty) flush_request_.flush_wanted();
}

void SerialOutputBuffer::flush() noexcept {
  {
    const MutexLock lock{mutex_};
    if (count_ == 0) return;
  }
  flush_request_.burst_ended();
}

std::span<const std::byte> SerialOutputBuffer::front() const noexcept {
  const MutexLock lock{mutex_};
  return {bytes_.get() + first_, std::min(count_, kSerialOutputCapacity - first_)};
}

void SerialOutputBuffer::consume(std::size_t count) noexcept {
  const MutexLock lock{mutex_};
  count = std::min(count, count_);
  count_ -= count;
  // An empty buffer starts again at its first page: a console that keeps up touches no other.
  first_ = count_ == 0 ? 0 : (first_ + count) % kSerialOutputCapacity;
}

}  // namespace mayfly
