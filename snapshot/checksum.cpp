#include "snapshot/checksum.h"

#define XXH_STATIC_LINKING_ONLY  // the size of its state
#include <xxhash.h>

namespace mayfly {

std::uint64_t checksum(std::span<const std::byte> bytes) noexcept { return XXH3_64bits(bytes.data(), bytes.size()); }

struct RunningChecksum::State {
  XXH3_state_t xxh;
};

RunningChecksum::RunningChecksum() : state_(std::make_unique<State>()) { begin(); }
RunningChecksum::~RunningChecksum() = default;

void RunningChecksum::begin() noexcept { (void)XXH3_64bits_reset(&state_->xxh); }
void RunningChecksum::add(std::span<const std::byte> bytes) noexcept {
  (void)XXH3_64bits_update(&state_->xxh, bytes.data(), bytes.size());
}
std::uint64_t RunningChecksum::sum() const noexcept { return XXH3_64bits_digest(&state_->xxh); }

}  // namespace mayfly
