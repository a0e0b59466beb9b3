#include "rootfs-tools/init/network.h"

#include "rootfs-tools/init/message.h"

#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>

namespace mayfly::guest_init {
namespace {

constexpr const char* kInterface = "eth0";
constexpr std::array<std::uint8_t, 4> kHost{169, 254, 169, 254};
constexpr std::array<std::uint8_t, 4> kLinkLocalMask{255, 255, 0, 0};
constexpr std::string_view kDefaultHostname = "mayfly";
constexpr std::size_t kLongestHostname = 64;  // __NEW_UTS_LEN

sockaddr address_of(const std::array<std::uint8_t, 4>& bytes) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  std::memcpy(&address.sin_addr, bytes.data(), bytes.size());
  return std::bit_cast<sockaddr>(address);
}

ifreq request_for(const char* name) {
  ifreq request{};
  std::memcpy(request.ifr_name, name, strlen(name));
  return request;
}

/// False: there is no such interface.
bool bring_up(int socket, const char* name) {
  ifreq request = request_for(name);
  if (ioctl(socket, SIOCGIFFLAGS, &request) != 0) return false;
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (ioctl(socket, SIOCSIFFLAGS, &request) != 0) print_failure("cannot bring up", name, errno);
  return true;
}

void take_link_local_address(int socket) {
  ifreq request = request_for(kInterface);
  std::array<std::uint8_t, 6> mac{};
  if (ioctl(socket, SIOCGIFHWADDR, &request) == 0) std::memcpy(mac.data(), request.ifr_hwaddr.sa_data, mac.size());
  request.ifr_addr = address_of(link_local_address(mac));
  if (ioctl(socket, SIOCSIFADDR, &request) != 0) return print_failure("cannot set the address of", kInterface, errno);
  request.ifr_netmask = address_of(kLinkLocalMask);
  if (ioctl(socket, SIOCSIFNETMASK, &request) != 0) print_failure("cannot set the mask of", kInterface, errno);
}

void add_route_to_host(int socket) {
  rtentry route{};
  route.rt_dst = address_of(kHost);
  route.rt_genmask = address_of({255, 255, 255, 255});
  route.rt_flags = RTF_UP | RTF_HOST;
  route.rt_dev = const_cast<char*>(kInterface);
  if (ioctl(socket, SIOCADDRT, &route) != 0 && errno != EEXIST)
    print_failure("cannot set the route to 169.254.169.254 by", kInterface, errno);
}

void write_unless_said(const char* path, std::string_view first, std::string_view name, std::string_view last) {
  const int fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
  struct stat status{};
  if (fd < 0) return;  // a link of the image's, which leads where it wants
  if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size == 0)
    for (const std::string_view part : {first, name, last})
      if (write(fd, part.data(), part.size()) < 0) print_failure("cannot write", path, errno);
  close(fd);
}

/// A program that looks its own host up finds it, also where the image brings the file.
void add_to_hosts(std::string_view name) {
  std::array<char, 128> line;
  std::size_t length = 0;
  for (const std::string_view part :
       {std::string_view{"127.0.1.1 "}, upto(name, kLongestHostname), std::string_view{"\n"}})
    for (const char each : part) line[length++] = each;
  const std::string_view own{line.data(), length};
  static std::array<char, 65536> text;
  const int fd = open("/etc/hosts", O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd < 0) return;  // a link of the image's, which leads where it wants
  const ssize_t size = read(fd, text.data(), text.size());
  const std::string_view there{text.data(), size > 0 ? static_cast<std::size_t>(size) : 0};
  std::string_view before = there.ends_with('\n') ? "" : "\n";
  if (there.empty()) before = "127.0.0.1 localhost\n::1 localhost\n";
  if (there.find(own) == std::string_view::npos)  // else by an earlier start, where the file system is kept
    for (const std::string_view part : {before, own})
      if (write(fd, part.data(), part.size()) < 0) print_failure("cannot write", "/etc/hosts", errno);
  close(fd);
}

/// Ports below 1024 and pings are root's to protect users of one machine from each other. A guest has one program, so every
/// user has them, as in containers.
void let_users_use_the_network() {
  struct Setting {
    const char* path;
    std::string_view value;
  };
  constexpr std::array settings{Setting{"/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
                                Setting{"/proc/sys/net/ipv4/ping_group_range", "0 2147483647"}};
  for (const auto& [path, value] : settings) {
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) continue;  // the kernel has no such setting, and maybe no IPv4
    if (write(fd, value.data(), value.size()) < 0) print_failure("cannot write", path, errno);
    close(fd);
  }
}

}  // namespace

void set_up_network(const Orders& orders) {
  const std::string_view name = orders.hostname.empty() ? kDefaultHostname : orders.hostname;
  if (sethostname(name.data(), name.size()) != 0) print_failure("cannot set the hostname", name, errno);
  mkdir("/etc", 0755);
  write_unless_said("/etc/hostname", name, "\n", "");
  add_to_hosts(name);
  if (!orders.nameserver.empty()) write_unless_said("/etc/resolv.conf", "nameserver ", orders.nameserver, "\n");
  let_users_use_the_network();

  const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return print_failure("cannot make a socket for", "networks", errno);
  bring_up(socket, "lo");
  ifreq request = request_for(kInterface);
  if (bring_up(socket, kInterface)) {
    if (ioctl(socket, SIOCGIFADDR, &request) != 0)
      take_link_local_address(socket);
    else
      add_route_to_host(socket);
  }
  close(socket);
}

}  // namespace mayfly::guest_init
