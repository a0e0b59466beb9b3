#include "tests/support/tap_network.h"

#include "tests/support/child_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

namespace mayfly::testing {
namespace {

constexpr int kDeadlineMs = 60'000;
static_assert(TapInterface::kEveryProtocol == ETH_P_ALL);

ifreq request_for(const std::string& name) {
  ifreq request{};
  std::copy_n(name.c_str(), std::min<std::size_t>(name.size(), IFNAMSIZ - 1), request.ifr_name);
  return request;
}

/// An ioctl on any socket, which is how interfaces are configured.
void configure(unsigned long what, ifreq& request, const char* why) {
  const OwnedFd socket{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  if (::ioctl(socket.get(), what, &request) != 0) give_up(std::string{why} + ": " + std::strerror(errno));
}

/// Attaches to the TAP `name`, making it where it is not there, and lets it stay (or not).
void keep_tap(const std::string& name, TapInterface::Queues queues, bool stays) {
  const OwnedFd tun{::open("/dev/net/tun", O_RDWR | O_CLOEXEC)};
  ifreq request = request_for(name);
  const bool many = queues == TapInterface::Queues::Many;
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (many ? IFF_MULTI_QUEUE : 0));
  if (!tun || ::ioctl(tun.get(), TUNSETIFF, &request) != 0) return give_up("cannot make the TAP " + name);
  if (::ioctl(tun.get(), TUNSETPERSIST, stays ? 1UL : 0UL) != 0) give_up("cannot keep the TAP " + name);
}

}  // namespace

std::optional<std::string> enter_fresh_network() {
  if (::access("/dev/net/tun", R_OK | W_OK) != 0) return "/dev/net/tun is missing or not permitted";
  if (::unshare(CLONE_NEWNET) != 0) return "a network namespace of its own is not permitted (needs root)";
  return std::nullopt;
}

void await_running(const std::string& name) {
  const OwnedFd changes{::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)};
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK;
  if (!changes || ::bind(changes.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    give_up("cannot watch the interfaces");
  ifreq request = request_for(name);
  for (;;) {
    configure(SIOCGIFFLAGS, request, "cannot ask for the TAP's flags");
    if ((request.ifr_flags & IFF_RUNNING) != 0) break;
    pollfd change{.fd = changes.get(), .events = POLLIN, .revents = 0};
    std::array<char, 8192> ignored;
    if (::poll(&change, 1, kDeadlineMs) != 1 || ::recv(changes.get(), ignored.data(), ignored.size(), 0) <= 0)
      give_up("the TAP " + name + " has no carrier");
  }
  // The flag may be that of the descriptor by which the TAP was made; asking for the link has the kernel carry out what
  // is due, where frames had nowhere to go before (linkwatch).
  ethtool_value link{.cmd = ETHTOOL_GLINK, .data = 0};
  request.ifr_data = reinterpret_cast<char*>(&link);
  configure(SIOCETHTOOL, request, "cannot ask for the TAP's link");
}

TapInterface::TapInterface(std::string name, int mtu, std::uint16_t protocol, Queues queues)
    : name_(std::move(name)), queues_(queues) {
  keep_tap(name_, queues_, true);
  std::ofstream{"/proc/sys/net/ipv6/conf/" + name_ + "/disable_ipv6"} << "1\n";
  ifreq request = request_for(name_);
  request.ifr_mtu = mtu;
  configure(SIOCSIFMTU, request, "cannot set the TAP's MTU");
  set_up(true);
  packets_ = OwnedFd{::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(protocol))};
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(protocol);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(name_.c_str()));
  if (!packets_ || ::bind(packets_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    give_up("cannot watch the TAP " + name_);
  const int room = 16 << 20;
  (void)::setsockopt(packets_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
}

TapInterface::~TapInterface() {
  if (::if_nametoindex(name_.c_str()) == 0) return;
  try {
    keep_tap(name_, queues_, false);
  } catch (...) {  // busy: the namespace's end removes it
  }
}

void TapInterface::set_up(bool up) {
  ifreq request = request_for(name_);
  request.ifr_flags = up ? IFF_UP | IFF_RUNNING : 0;
  configure(SIOCSIFFLAGS, request, "cannot bring the TAP up or down");
  // The socket remembers that its interface was down, and would say so once more.
  int pending = 0;
  socklen_t length = sizeof pending;
  if (packets_) (void)::getsockopt(packets_.get(), SOL_SOCKET, SO_ERROR, &pending, &length);
}

void TapInterface::remove() {
  ChildProcess ip{{"/bin/ip", "link", "delete", name_}, {.in = -1, .out = STDOUT_FILENO, .err = STDERR_FILENO}};
  if (ip.wait() != 0) give_up("cannot delete the TAP " + name_);
}

void TapInterface::send(const Frame& frame) {
  if (::send(packets_.get(), frame.data(), frame.size(), 0) != static_cast<ssize_t>(frame.size()))
    give_up("cannot send " + std::to_string(frame.size()) + " bytes: " + std::strerror(errno));
}

Frame TapInterface::receive() {
  for (;;) {
    pollfd ready{.fd = packets_.get(), .events = POLLIN, .revents = 0};
    if (::poll(&ready, 1, kDeadlineMs) <= 0) give_up("the guest sends nothing");
    Frame frame(70'000);
    sockaddr_ll from{};
    socklen_t length = sizeof from;
    const ssize_t count =
        ::recvfrom(packets_.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
    if (count < 0) give_up(std::string{"cannot receive: "} + std::strerror(errno));
    if (from.sll_pkttype == PACKET_OUTGOING) continue;  // our own
    frame.resize(static_cast<std::size_t>(count));
    return frame;
  }
}

}  // namespace mayfly::testing
