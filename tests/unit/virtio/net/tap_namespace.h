#pragma once

#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>

/// A network namespace of a test's own, to make TAPs in without touching the host's: the calling thread is in it until
/// the object goes. Needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
namespace mayfly::testing {

class TapNamespace {
 public:
  struct Kind {
    bool many_queues = false;
    bool is_tun = false;
    int owner = -1;  ///< User; -1: nobody in particular.
  };

  /// Empty, or why this host cannot.
  [[nodiscard]] std::string enter() {
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) return "no use of /dev/net/tun";
    home_ = OwnedFd{::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)};
    if (!home_) return "no /proc";
    if (::unshare(CLONE_NEWNET) != 0) return "no right to make a network namespace";
    inside_ = true;
    return {};
  }
  TapNamespace() = default;
  TapNamespace(const TapNamespace&) = delete;
  TapNamespace& operator=(const TapNamespace&) = delete;
  ~TapNamespace() {
    if (inside_) (void)::setns(home_.get(), CLONE_NEWNET);
  }

  /// Makes a TAP that stays, and brings it up.
  void add_tap(const std::string& name, const Kind& kind = {false, false, -1}) {
    const OwnedFd fd{::open("/dev/net/tun", O_RDWR | O_CLOEXEC)};
    ifreq request = request_for(name);
    request.ifr_flags =
        static_cast<short>((kind.is_tun ? IFF_TUN : IFF_TAP) | IFF_NO_PI | (kind.many_queues ? IFF_MULTI_QUEUE : 0));
    must(::ioctl(fd.get(), TUNSETIFF, &request) == 0, "TUNSETIFF");
    if (kind.owner >= 0) must(::ioctl(fd.get(), TUNSETOWNER, kind.owner) == 0, "TUNSETOWNER");
    must(::ioctl(fd.get(), TUNSETPERSIST, 1) == 0, "TUNSETPERSIST");
    set_up(name, true);
  }
  void set_up(const std::string& name, bool up) {
    const OwnedFd fd{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    ifreq request = request_for(name);
    must(::ioctl(fd.get(), SIOCGIFFLAGS, &request) == 0, "SIOCGIFFLAGS");
    request.ifr_flags = static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    must(::ioctl(fd.get(), SIOCSIFFLAGS, &request) == 0, "SIOCSIFFLAGS");
  }
  /// Bytes of an IP packet that the host puts into one frame.
  void set_mtu(const std::string& name, int mtu) {
    const OwnedFd fd{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    ifreq request = request_for(name);
    request.ifr_mtu = mtu;
    must(::ioctl(fd.get(), SIOCSIFMTU, &request) == 0, "SIOCSIFMTU");
  }
  /// Deletes an interface, whoever uses it.
  void remove(const std::string& name) {
    struct {
      nlmsghdr header;
      ifinfomsg link;
    } message{};
    message.header.nlmsg_len = sizeof message;
    message.header.nlmsg_type = RTM_DELLINK;
    message.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    message.link.ifi_index = static_cast<int>(::if_nametoindex(name.c_str()));
    const OwnedFd fd{::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)};
    must(::send(fd.get(), &message, sizeof message, 0) == static_cast<ssize_t>(sizeof message), "RTM_DELLINK");
    struct {
      nlmsghdr header;
      nlmsgerr error;
      char rest[256];
    } answer{};
    must(::recv(fd.get(), &answer, sizeof answer, 0) > 0 && answer.error.error == 0, "RTM_DELLINK");
  }
  /// Runs `what` on a thread without capabilities, in the same namespace.
  template <typename What>
  static auto without_rights(What what) -> decltype(what()) {
    decltype(what()) result{};
    std::thread([&] {
      __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
      __user_cap_data_struct none[2]{};
      (void)::syscall(SYS_capset, &header, none);
      result = what();
    }).join();
    return result;
  }

 private:
  static ifreq request_for(const std::string& name) {
    ifreq request{};
    std::ranges::copy(name, request.ifr_name);
    return request;
  }
  static void must(bool holds, const char* what) {
    if (!holds) throw std::runtime_error(std::string{what} + ": " + std::strerror(errno));
  }

  OwnedFd home_;
  bool inside_ = false;
};

}  // namespace mayfly::testing
