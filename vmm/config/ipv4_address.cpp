#include "vmm/config/ipv4_address.h"

#include <charconv>
#include <optional>

#include <fmt/format.h>

namespace mayfly {
namespace {

std::optional<Ipv4Address> read_address(std::string_view text) {
  Ipv4Address address{};
  for (std::size_t i = 0; i < address.size(); ++i) {
    if (i > 0) {
      if (!text.starts_with('.')) return std::nullopt;
      text.remove_prefix(1);
    }
    const auto [after, error] = std::from_chars(text.data(), text.data() + text.size(), address[i]);
    if (error != std::errc{} || (text.starts_with('0') && after != text.data() + 1)) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(after - text.data()));
  }
  return text.empty() ? std::optional{address} : std::nullopt;
}

}  // namespace

Result<Ipv4Address> parse_mmds_address(std::string_view text) {
  const auto address = read_address(text);
  if (!address) {
    return fail(ErrorKind::InvalidArgument, "\"{}\" is not an IPv4 address; one looks like 169.254.169.254",
                text.substr(0, 40));
  }
  const auto& [first, second, third, fourth] = *address;
  if (first != 169 || second != 254 || third == 0 || third == 255) {
    return fail(ErrorKind::InvalidArgument,
                "{} is not a link-local address that a service can have; they are 169.254.1.0 to 169.254.254.255",
                text);
  }
  return *address;
}

std::string format_ipv4_address(const Ipv4Address& address) { return fmt::format("{}", fmt::join(address, ".")); }

}  // namespace mayfly
