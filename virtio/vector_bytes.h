#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

/// Bytes that lie scattered over several buffers, as a chain's do. The buffers are checked host memory; what is in
/// them may be the guest's and change at any time: copy first, check the copy.
namespace mayfly {

/// Copies what lies at [0, into.size()) of `buffers`; how much there was.
std::size_t copy_from(std::span<const iovec> buffers, std::span<std::byte> into) noexcept;

/// Copies `bytes` to [at, at + bytes.size()) of `buffers`; how much had room.
std::size_t copy_to(std::span<const iovec> buffers, std::uint64_t at, std::span<const std::byte> bytes) noexcept;

/// `buffers` without their first `length` bytes; the first that is left is shortened in its place.
[[nodiscard]] std::span<iovec> drop_front(std::span<iovec> buffers, std::uint64_t length) noexcept;

}  // namespace mayfly
