#include "snapshot/checksum.h"

#include <xxhash.h>

namespace mayfly {

std::uint64_t checksum(std::span<const std::byte> bytes) noexcept { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace mayfly
