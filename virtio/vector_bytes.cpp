#include "virtio/vector_bytes.h"

#include <algorithm>
#include <cstring>

namespace mayfly {

std::size_t copy_from(std::span<const iovec> buffers, std::span<std::byte> into) noexcept {
  std::size_t done = 0;
  for (const iovec& buffer : buffers) {
    if (done == into.size()) break;
    const std::size_t length = std::min(buffer.iov_len, into.size() - done);
    std::memcpy(into.data() + done, buffer.iov_base, length);
    done += length;
  }
  // The compiler must not read the guest's bytes again where the copy is looked at.
  asm volatile("" : : "r"(into.data()) : "memory");
  return done;
}

std::size_t copy_to(std::span<const iovec> buffers, std::uint64_t at, std::span<const std::byte> bytes) noexcept {
  std::size_t done = 0;
  for (const iovec& buffer : buffers) {
    if (done == bytes.size()) break;
    if (at >= buffer.iov_len) {
      at -= buffer.iov_len;
      continue;
    }
    const std::size_t length = std::min<std::size_t>(buffer.iov_len - at, bytes.size() - done);
    std::memcpy(static_cast<std::byte*>(buffer.iov_base) + at, bytes.data() + done, length);
    done += length;
    at = 0;
  }
  return done;
}

std::span<iovec> drop_front(std::span<iovec> buffers, std::uint64_t length) noexcept {
  while (!buffers.empty() && length >= buffers.front().iov_len) {
    length -= buffers.front().iov_len;
    buffers = buffers.subspan(1);
  }
  if (!buffers.empty()) {
    buffers.front().iov_base = static_cast<std::byte*>(buffers.front().iov_base) + length;
    buffers.front().iov_len -= length;
  }
  return buffers;
}

}  // namespace mayfly
