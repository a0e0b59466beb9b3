#include "virtio/net/tap.h"

#include "virtio/net/net_header.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstddef>
#include <string_view>

namespace mayfly {
namespace {

constexpr const char* kTunDevice = "/dev/net/tun";

// Younger than some kernels' headers (Linux 6.2). The kernel takes both or neither.
constexpr unsigned kTunUso4 = 0x20;  // TUN_F_USO4
constexpr unsigned kTunUso6 = 0x40;  // TUN_F_USO6
constexpr unsigned kTunUso = kTunUso4 | kTunUso6;
constexpr unsigned kEverything = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | kTunUso;

/// The kernel takes no name with these, or would take it for a pattern to make a name from.
bool is_name_letter(char letter) noexcept {
  const auto code = static_cast<unsigned char>(letter);
  return std::isgraph(code) != 0 && letter != '/' && letter != ':' && letter != '%';
}

Status check_name(const std::string& name) {
  constexpr std::size_t kMaximumLength = IFNAMSIZ - 1;
  if (name.empty()) return fail(ErrorKind::InvalidArgument, "the TAP's name is empty: give the name of an interface");
  if (name.size() > kMaximumLength)
    return fail(ErrorKind::InvalidArgument, "the TAP's name \"{}\" has {} bytes; Linux takes at most {}", name,
                name.size(), kMaximumLength);
  if (!std::ranges::all_of(name, is_name_letter) || name == "." || name == "..")
    return fail(ErrorKind::InvalidArgument,
                "the TAP's name \"{}\" is none that an interface can have: no spaces, control characters, '/', ':' "
                "or '%'",
                name);
  return {};
}

std::unexpected<Error> missing(const std::string& name) {
  return fail(ErrorKind::NotFound,
              "there is no network interface \"{0}\": create it with \"ip tuntap add dev {0} mode tap user USER\" and "
              "\"ip link set {0} up\"",
              name);
}

Result<OwnedFd> open_tun_device() {
  OwnedFd fd{::open(kTunDevice, O_RDWR | O_CLOEXEC)};
  if (fd) return fd;
  switch (errno) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return fail_errno(ErrorKind::Unsupported, "this host has no {}: load the module with \"modprobe tun\"",
                        kTunDevice);
    case EACCES:
    case EPERM:
      return fail_errno(ErrorKind::Permission, "cannot open {}: let this user read and write it", kTunDevice);
    default:
      return fail_errno(ErrorKind::System, "cannot open {}", kTunDevice);
  }
}

/// TUNSETIFF with the flags that the TAP was made with; only trying shows whether it has many queues.
int attach(int fd, const std::string& name) noexcept {
  constexpr short kFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  int result = -1;
  for (const int more : {0, IFF_MULTI_QUEUE}) {
    ifreq request{};
    std::ranges::copy(name, request.ifr_name);  // shorter than the field, which stays terminated
    request.ifr_flags = static_cast<short>(kFlags | more);
    result = ::ioctl(fd, TUNSETIFF, &request);
    if (result == 0 || errno != EINVAL) return result;
  }
  return result;
}

std::unexpected<Error> attach_error(const std::string& name) {
  switch (errno) {
    case EINVAL:
      return fail(ErrorKind::InvalidArgument,
                  "the network interface \"{0}\" is not a TAP: give one that \"ip tuntap add dev NAME mode tap\" made",
                  name);
    case EBUSY:
      return fail(ErrorKind::State, "the TAP \"{}\" is in use by another process: each machine needs its own", name);
    case EPERM:
      return fail(ErrorKind::Permission,
                  "the TAP \"{0}\" belongs to another user: create it with \"ip tuntap add dev {0} mode tap user USER\""
                  ", or run with CAP_NET_ADMIN",
                  name);
    case E2BIG:
      return fail(ErrorKind::State, "all queues of the TAP \"{}\" are in use: each machine needs its own TAP", name);
    default:
      return fail_errno(ErrorKind::System, "cannot attach to the TAP \"{}\"", name);
  }
}

/// The number of an interface of this network namespace. Not if_nametoindex(), which takes a lack of descriptors for a
/// reason to try sockets of other families.
Result<int> index_of(const std::string& name) {
  const OwnedFd socket{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  if (!socket) return fail_errno(ErrorKind::System, "cannot look for the TAP \"{}\"", name);
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  if (::ioctl(socket.get(), SIOCGIFINDEX, &request) != 0) return missing(name);
  return request.ifr_ifindex;
}

/// Whether RWF_NOWAIT is known here: a byte is less than a header, so the refusal says it and nothing is sent.
bool knows_nowait(int fd) noexcept {
  std::byte byte{};
  const iovec piece{.iov_base = &byte, .iov_len = 1};
  return ::pwritev2(fd, &piece, 1, -1, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP;
}

}  // namespace

Result<Tap> Tap::open(const std::string& name) {
  if (auto good = check_name(name); !good) return propagate(good);
  auto index = index_of(name);
  if (!index) return propagate(index);
  auto device = open_tun_device();
  if (!device) return propagate(device);
  Tap tap{std::move(*device), name};
  if (attach(tap.fd(), name) != 0) return attach_error(name);
  // Deleted between the two looks, TUNSETIFF has made a new one, which goes as its descriptor is closed.
  auto index_now = index_of(name);
  if (!index_now) return propagate(index_now);
  if (*index_now != *index) return missing(name);
  if (auto ready = tap.set_up(); !ready) return propagate(ready);
  return tap;
}

Status Tap::set_up() {
  int header_size = sizeof(NetHeader);
  if (::ioctl(fd(), TUNSETVNETHDRSZ, &header_size) != 0)
    return fail_errno(ErrorKind::System, "the TAP \"{}\" refuses headers of {} bytes", name_, header_size);
  int little_endian = 1;
  if (::ioctl(fd(), TUNSETVNETLE, &little_endian) != 0)
    return fail_errno(ErrorKind::System, "the TAP \"{}\" refuses little-endian headers", name_);
  // A TAP remembers what its last owner set. Set here is what most guests will ask for: then activation costs nothing.
  flags_ = kEverything;
  has_uso_ = ::ioctl(fd(), TUNSETOFFLOAD, flags_) == 0;
  if (!has_uso_) {
    flags_ &= ~kTunUso;
    if (::ioctl(fd(), TUNSETOFFLOAD, flags_) != 0)
      return fail_errno(ErrorKind::System, "the TAP \"{}\" refuses to hand over unfinished frames", name_);
  }
  has_nowait_ = knows_nowait(fd());
  if (!has_nowait_ && ::fcntl(fd(), F_SETFL, O_RDWR | O_NONBLOCK) != 0)
    return fail_errno(ErrorKind::System, "the TAP \"{}\" refuses to be non-blocking", name_);
  return {};
}

Tap Tap::adopt(OwnedFd fd, std::string name, bool nowait) {
  Tap tap{std::move(fd), std::move(name)};
  tap.is_tap_ = false;
  tap.has_nowait_ = nowait;
  tap.has_uso_ = nowait;
  return tap;
}

Tap Tap::none() {
  Tap tap{OwnedFd{}, {}};
  tap.is_tap_ = false;
  return tap;
}

unsigned Tap::flags_for(const TapOffloads& offloads) const noexcept {
  unsigned flags = 0;
  if (offloads.checksum) {
    flags |= TUN_F_CSUM;
    if (offloads.tso4) flags |= TUN_F_TSO4;
    if (offloads.tso6) flags |= TUN_F_TSO6;
    if (offloads.ecn && (offloads.tso4 || offloads.tso6)) flags |= TUN_F_TSO_ECN;
    if (offloads.uso && has_uso_) flags |= kTunUso;
  }
  return flags;
}

Status Tap::set_offloads(const TapOffloads& offloads) {
  const unsigned flags = flags_for(offloads);
  if (flags == flags_) return {};
  if (is_tap_ && ::ioctl(fd(), TUNSETOFFLOAD, flags) != 0)
    return fail_errno(ErrorKind::System, "the TAP \"{}\" refuses offloads {:#x}", name_, flags);
  flags_ = flags;
  return {};
}

Result<Tap> Tap::duplicate() const {
  if (!exists()) return none();
  Tap twin{OwnedFd{::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0)}, name_};
  if (!twin.fd_) return fail_errno(ErrorKind::System, "cannot keep the TAP {} open twice", name_);
  twin.is_tap_ = is_tap_;
  twin.has_uso_ = has_uso_;
  twin.has_nowait_ = has_nowait_;
  twin.flags_ = flags_;
  return twin;
}

}  // namespace mayfly
