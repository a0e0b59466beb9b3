#include "virtio/mmds/siphash.h"

#include <bit>

namespace mayfly {
namespace {

std::uint64_t little_endian(std::span<const std::uint8_t> bytes) noexcept {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) value |= std::uint64_t{bytes[i]} << (8 * i);
  return value;
}

struct State {
  std::uint64_t v0, v1, v2, v3;

  void rounds(unsigned count) noexcept {
    while (count-- > 0) {
      v0 += v1;
      v1 = std::rotl(v1, 13) ^ v0;
      v0 = std::rotl(v0, 32);
      v2 += v3;
      v3 = std::rotl(v3, 16) ^ v2;
      v0 += v3;
      v3 = std::rotl(v3, 21) ^ v0;
      v2 += v1;
      v1 = std::rotl(v1, 17) ^ v2;
      v2 = std::rotl(v2, 32);
    }
  }
  void take(std::uint64_t word) noexcept {
    v3 ^= word;
    rounds(2);
    v0 ^= word;
  }
  [[nodiscard]] std::uint64_t give() noexcept {
    rounds(4);
    return v0 ^ v1 ^ v2 ^ v3;
  }
};

}  // namespace

SipTag siphash(const SipKey& key, std::span<const std::uint8_t> message) noexcept {
  const std::uint64_t k0 = little_endian(std::span{key}.first(8));
  const std::uint64_t k1 = little_endian(std::span{key}.last(8));
  State state{.v0 = k0 ^ 0x736f6d6570736575,
              .v1 = k1 ^ 0x646f72616e646f6d ^ 0xee,
              .v2 = k0 ^ 0x6c7967656e657261,
              .v3 = k1 ^ 0x7465646279746573};
  const std::uint64_t length = message.size();
  for (; message.size() >= 8; message = message.subspan(8)) state.take(little_endian(message.first(8)));
  state.take(little_endian(message) | length << 56);

  SipTag tag;
  state.v2 ^= 0xee;
  const std::uint64_t first = state.give();
  state.v1 ^= 0xdd;
  const std::uint64_t second = state.give();
  for (unsigned i = 0; i < 8; ++i) {
    tag[i] = static_cast<std::uint8_t>(first >> (8 * i));
    tag[8 + i] = static_cast<std::uint8_t>(second >> (8 * i));
  }
  return tag;
}

SipTag siphash(const SipKey& key, std::uint64_t number) noexcept {
  std::array<std::uint8_t, sizeof number> message;
  for (std::size_t i = 0; i < message.size(); ++i) message[i] = static_cast<std::uint8_t>(number >> (8 * i));
  return siphash(key, message);
}

}  // namespace mayfly
