#include "vmm/config/mac_address.h"

#include "vmm/base/text.h"

#include <algorithm>
#include <optional>

namespace mayfly {
namespace {

constexpr std::uint8_t kMulticast = 1 << 0;            // IEEE 802, of the first byte
constexpr std::uint8_t kLocallyAdministered = 1 << 1;  // likewise
constexpr std::size_t kTextLength = 17;
constexpr std::size_t kStride = 3;          // two digits and a colon
constexpr std::size_t kMostShownText = 64;  // what a message repeats of a wrong one

std::optional<MacAddress> bytes_of(std::string_view text) {
  if (text.size() != kTextLength) return std::nullopt;
  MacAddress address{};
  for (std::size_t i = 0; i < address.size(); ++i) {
    if (i > 0 && text[i * kStride - 1] != ':') return std::nullopt;
    const auto byte = whole_number<std::uint8_t>(text.substr(i * kStride, 2), 16);
    if (!byte) return std::nullopt;
    address[i] = *byte;
  }
  return address;
}

/// FNV-1a, then mixed (the finalizer of MurmurHash3) so that ids that differ in their last letter differ everywhere.
std::uint64_t stable_hash(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325U;
  for (const char letter : text) hash = (hash ^ static_cast<std::uint8_t>(letter)) * 0x100000001B3U;
  hash = (hash ^ (hash >> 33)) * 0xFF51AFD7ED558CCDU;
  hash = (hash ^ (hash >> 33)) * 0xC4CEB9FE1A85EC53U;
  return hash ^ (hash >> 33);
}

}  // namespace

Result<MacAddress> parse_mac_address(std::string_view text) {
  const auto address = bytes_of(text);
  if (!address) {
    return fail(ErrorKind::InvalidArgument, "\"{}\" is not a MAC address; one looks like aa:bb:cc:dd:ee:ff",
                text.substr(0, kMostShownText));
  }
  if (((*address)[0] & kMulticast) != 0) {
    return fail(ErrorKind::InvalidArgument,
                "the MAC address {} is a multicast one, which no interface can have: its first byte must be even",
                text);
  }
  if (std::ranges::all_of(*address, [](std::uint8_t byte) { return byte == 0; })) {
    return fail(ErrorKind::InvalidArgument, "the MAC address {} is all zero, which no interface can have", text);
  }
  return *address;
}

std::string format_mac_address(const MacAddress& address) {
  const auto& [a, b, c, d, e, f] = address;
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", a, b, c, d, e, f);
}

MacAddress derive_mac_address(std::string_view interface_id) noexcept {
  const std::uint64_t hash = stable_hash(interface_id);
  MacAddress address{};
  for (std::size_t i = 0; i < address.size(); ++i) address[i] = static_cast<std::uint8_t>(hash >> (8 * i));
  address[0] = static_cast<std::uint8_t>((address[0] & ~kMulticast) | kLocallyAdministered);
  return address;
}

MacAddress mac_of(const NetworkInterfaceConfig& interface) noexcept {
  return interface.guest_mac.value_or(derive_mac_address(interface.iface_id));
}

}  // namespace mayfly
