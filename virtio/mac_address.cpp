#include "virtio/mac_address.h"

#include <algorithm>
#include <cstddef>

namespace mayfly {
namespace {

constexpr std::uint8_t kGroupBit = 0x01;  // of the first byte: multicast
constexpr std::uint8_t kLocalBit = 0x02;  // of the first byte: administered by nobody but us
constexpr std::size_t kTextLength = 17;

/// What a hexadecimal digit stands for; anything else: over 15.
constexpr unsigned digit(char letter) noexcept {
  if (letter >= '0' && letter <= '9') return static_cast<unsigned>(letter - '0');
  const char small = static_cast<char>(letter | 0x20);
  return small >= 'a' && small <= 'f' ? static_cast<unsigned>(small - 'a' + 10) : 16;
}

}  // namespace

Result<MacAddress> parse_mac_address(std::string_view text) {
  const auto malformed = [text] {
    return fail(ErrorKind::InvalidArgument,
                "\"{}\" is not a MAC address: write six hexadecimal bytes with colons, as 06:00:c0:a8:00:02", text);
  };
  if (text.size() != kTextLength) return malformed();
  MacAddress address{};
  for (std::size_t i = 0; i < address.size(); ++i) {
    const unsigned high = digit(text[3 * i]);
    const unsigned low = digit(text[3 * i + 1]);
    if (high > 15 || low > 15) return malformed();
    address[i] = static_cast<std::uint8_t>(16 * high + low);
    if (i + 1 < address.size() && text[3 * i + 2] != ':') return malformed();
  }
  if ((address[0] & kGroupBit) != 0)
    return fail(ErrorKind::InvalidArgument,
                "{} is a multicast address, which no interface can have: make the first byte even", text);
  if (std::ranges::all_of(address, [](std::uint8_t byte) { return byte == 0; }))
    return fail(ErrorKind::InvalidArgument, "{} is no interface's address: give another, or none to have one made",
                text);
  return address;
}

std::string format_mac_address(const MacAddress& address) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", address[0], address[1], address[2], address[3],
                     address[4], address[5]);
}

MacAddress derive_mac_address(std::string_view interface_id) noexcept {
  // FNV-1a: it has to be stable and to spread, not to be secret.
  std::uint64_t hash = 0xCBF2'9CE4'8422'2325;
  for (const char letter : interface_id) hash = (hash ^ static_cast<std::uint8_t>(letter)) * 0x100'0000'01B3;
  hash ^= hash >> 32;  // its high bits spread better than its low ones; all six bytes get of both
  MacAddress address{};
  for (std::size_t i = 0; i < address.size(); ++i) address[i] = static_cast<std::uint8_t>(hash >> 8 * i);
  address[0] = static_cast<std::uint8_t>((address[0] & ~kGroupBit) | kLocalBit);
  return address;
}

}  // namespace mayfly
