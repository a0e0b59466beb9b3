#pragma once

#include "rootfs-tools/init/orders.h"

#include <array>
#include <cstdint>

namespace mayfly::guest_init {

/// The address of the guest's own on the link, from that of its interface: 169.254.1.0 to 169.254.254.255, as RFC 3927
/// (2.1) has it, and never the host's 169.254.169.254. In the order of the network.
inline std::array<std::uint8_t, 4> link_local_address(const std::array<std::uint8_t, 6>& mac) {
  const auto third = static_cast<std::uint8_t>(1 + mac[4] % 254);
  const std::uint8_t fourth = third == 169 && mac[5] == 254 ? 1 : mac[5];
  return {169, 254, third, fourth};
}

/// Names the guest, and brings up lo and eth0, so that the host is reached at 169.254.169.254: by a link-local address
/// where the kernel was given none (ip=), and else by a route. Files of /etc that the image has, and that say something,
/// stay as they are; but its hosts gets a line with the guest's name. Any user may listen at ports below 1024, and ping.
void set_up_network(const Orders& orders);

}  // namespace mayfly::guest_init
