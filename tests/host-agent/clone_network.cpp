#include "tests/host-agent/clone_network.h"

#include "api/client/deadline.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace mayfly::host_agent {
namespace {

constexpr std::uint32_t kHost = 0x0A0C'0001;  // 10.12.0.1
constexpr std::uint32_t kGuest = 0x0A0C'0002;
constexpr std::uint32_t kMask = 0xFFFF'FF00;
constexpr std::uint16_t kPort = 80;

using Mac = std::array<std::uint8_t, 6>;
// The TAP's is the same everywhere as well: the guest remembers it.
constexpr Mac kHostMacBytes{0x06, 0x00, 0x0a, 0x0c, 0x00, 0x01};
constexpr Mac kGuestMacBytes{0x06, 0x00, 0x0a, 0x0c, 0x00, 0x02};  // kGuestMac

sockaddr_in inet_address(std::uint32_t address, std::uint16_t port = 0) {
  sockaddr_in inet{};
  inet.sin_family = AF_INET;
  inet.sin_port = htons(port);
  inet.sin_addr.s_addr = htonl(address);
  return inet;
}

/// The kernel's requests have room for an address of any family.
void put(const sockaddr_in& inet, sockaddr& field) { std::memcpy(&field, &inet, sizeof inet); }
void put(const Mac& mac, sockaddr& field) {
  field.sa_family = ARPHRD_ETHER;
  std::memcpy(field.sa_data, mac.data(), mac.size());
}

ifreq tap_request(unsigned tap) {
  ifreq request{};
  std::ranges::copy(tap_name(tap), request.ifr_name);
  return request;
}

Result<OwnedFd> make_tap(unsigned number) {
  OwnedFd tap{::open("/dev/net/tun", O_RDWR | O_CLOEXEC)};
  if (!tap) return fail_errno(ErrorKind::System, "cannot open /dev/net/tun");
  ifreq request = tap_request(number);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
  if (::ioctl(tap.get(), TUNSETIFF, &request) != 0) return fail_errno(ErrorKind::System, "cannot make a TAP");
  return tap;
}

/// Its addresses, and its guest's: nobody needs to ask for them.
Status configure_tap(unsigned tap) {
  const OwnedFd socket{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  ifreq mac = tap_request(tap);
  put(kHostMacBytes, mac.ifr_hwaddr);
  ifreq address = tap_request(tap);
  put(inet_address(kHost), address.ifr_addr);
  ifreq mask = tap_request(tap);
  put(inet_address(kMask), mask.ifr_netmask);
  ifreq flags = tap_request(tap);
  flags.ifr_flags = IFF_UP;
  arpreq guest{};
  put(inet_address(kGuest), guest.arp_pa);
  put(kGuestMacBytes, guest.arp_ha);
  guest.arp_flags = ATF_COM | ATF_PERM;
  std::ranges::copy(tap_name(tap), guest.arp_dev);
  if (::ioctl(socket.get(), SIOCSIFHWADDR, &mac) != 0 || ::ioctl(socket.get(), SIOCSIFADDR, &address) != 0 ||
      ::ioctl(socket.get(), SIOCSIFNETMASK, &mask) != 0 || ::ioctl(socket.get(), SIOCSIFFLAGS, &flags) != 0 ||
      ::ioctl(socket.get(), SIOCSARP, &guest) != 0)
    return fail_errno(ErrorKind::System, "cannot configure a TAP");
  return {};
}

/// A TAP without a queue has no carrier, and for a moment after it has got one the kernel may drop frames: the first of
/// a connection would be sent again only after a second. So a queue of ours, which takes no frames, keeps the carrier.
Status hold_carrier(const OwnedFd& tap) {
  ifreq request{};
  request.ifr_flags = IFF_DETACH_QUEUE;
  if (::ioctl(tap.get(), TUNSETQUEUE, &request) != 0) return fail_errno(ErrorKind::System, "cannot idle a TAP's queue");
  return {};
}

/// How many queues of the TAP have a process that takes frames; 0 where the kernel does not tell (Linux 6.1 does
/// not): a monitor that ends by itself gives its own back before its end.
Result<unsigned> queues_in_use(unsigned tap) {
  const OwnedFd socket{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  ethtool_channels channels{};
  channels.cmd = ETHTOOL_GCHANNELS;
  ifreq request = tap_request(tap);
  request.ifr_data = reinterpret_cast<char*>(&channels);
  if (::ioctl(socket.get(), SIOCETHTOOL, &request) != 0) {
    if (errno == EOPNOTSUPP) return 0U;
    return fail_errno(ErrorKind::System, "cannot ask for a TAP's queues");
  }
  return channels.combined_count;
}

/// A frame of a guest is to be taken from whichever TAP it comes. The kernel may be told to drop one that comes by
/// another interface than the first by which its sender is reached.
Status take_guests_at_all_taps() {
  for (const char* const path :
       {"/proc/sys/net/ipv4/conf/all/rp_filter", "/proc/sys/net/ipv4/conf/default/rp_filter"}) {
    const OwnedFd file{::open(path, O_RDONLY | O_CLOEXEC)};
    char mode = 0;
    if (!file || ::read(file.get(), &mode, 1) != 1) return fail_errno(ErrorKind::System, "cannot read {}", path);
    if (mode == '0') continue;  // where /proc/sys may not be written to, it often is
    const OwnedFd setting{::open(path, O_WRONLY | O_CLOEXEC)};
    if (!setting || ::write(setting.get(), "0", 1) != 1)
      return fail_errno(ErrorKind::System, "cannot write 0 to {}, which is {}", path, mode);
  }
  return {};
}

}  // namespace

std::string tap_name(unsigned tap) { return fmt::format("tap{}", tap); }

sockaddr_in guest_address() { return inet_address(kGuest, kPort); }

Result<CloneNetwork> CloneNetwork::enter(unsigned taps) {
  if (::unshare(CLONE_NEWNET) != 0)
    return fail_errno(ErrorKind::Permission, "cannot make a network namespace; run as root");
  if (taps > 1)
    if (auto told = take_guests_at_all_taps(); !told) return propagate(told);
  std::vector<OwnedFd> made;
  for (unsigned number = 0; number < taps; ++number) {
    auto tap = make_tap(number);
    if (!tap) return propagate(tap);
    if (auto configured = configure_tap(number); !configured) return propagate(configured);
    if (auto held = hold_carrier(*tap); !held) return propagate(held);
    made.push_back(std::move(*tap));
  }
  return CloneNetwork{std::move(made)};
}

Result<OwnedFd> CloneNetwork::socket(unsigned tap) const {
  OwnedFd socket{::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
  if (!socket) return fail_errno(ErrorKind::System, "cannot make a socket");
  const std::string name = tap_name(tap);
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_BINDTODEVICE, name.c_str(), static_cast<socklen_t>(name.size())) != 0)
    return fail_errno(ErrorKind::System, "cannot bind a socket to {}", name);
  const int at_once = 1;
  (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
  return socket;
}

Result<bool> CloneNetwork::is_unused(unsigned tap) const {
  const auto in_use = queues_in_use(tap);
  if (!in_use) return std::unexpected(in_use.error());
  return *in_use == 0;
}

Status CloneNetwork::await_unused(unsigned tap) const {
  constexpr std::chrono::seconds kPatience{10};
  const Deadline deadline = Deadline::clock::now() + kPatience;
  for (;;) {
    const auto unused = is_unused(tap);
    if (!unused) return std::unexpected(unused.error());
    if (*unused) return {};
    if (time_left(deadline).count() == 0) return fail(ErrorKind::System, "a TAP is still in use");
    (void)::poll(nullptr, 0, 1);  // nothing tells when it is over
  }
}

}  // namespace mayfly::host_agent
