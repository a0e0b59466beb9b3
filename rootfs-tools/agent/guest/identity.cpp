#include "rootfs-tools/agent/guest/identity.h"

#include "vmm/base/files.h"
#include "vmm/base/owned_fd.h"
#include "vmm/base/printable.h"
#include "vmm/base/text.h"
#include "vmm/base/try.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

namespace mayfly::agent {
namespace {

constexpr std::size_t kLongestAnswer = 8192;
constexpr std::size_t kLongestHosts = std::size_t{1} << 20;
/// The line of /etc/hosts with the guest's own name, as init writes it too.
constexpr std::string_view kOwnAddress = "127.0.1.1 ";
constexpr std::size_t kLongestHostname = 64;  // __NEW_UTS_LEN
/// Beside the link-local address, by which the host is reached.
constexpr const char* kInterface = "eth0:0";

std::unexpected<Error> no_answer() {
  return fail(ErrorKind::System, "the metadata service gives no answer that is HTTP");
}

/// One connection, for requests one after the other.
class Service {
 public:
  struct Answer {
    unsigned status = 0;
    std::string body;
  };

  explicit Service(std::chrono::milliseconds patience) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval limit{.tv_sec = patience.count() / 1000, .tv_usec = patience.count() % 1000 * 1000};
    for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO})
      ::setsockopt(socket_.get(), SOL_SOCKET, option, &limit, sizeof limit);
  }

  /// False: it is refused, so there is no such service. Errors: a timeout, or no route.
  Result<bool> connect(const sockaddr_in& address) {
    if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return true;
    if (errno == ECONNREFUSED) return false;
    if (errno == EINPROGRESS) errno = ETIMEDOUT;  // by SO_SNDTIMEO
    return fail_errno(ErrorKind::System, "the metadata service cannot be reached");
  }

  Result<Answer> ask(std::string_view method, std::string_view path, std::string_view field) {
    const std::string request = fmt::format("{} {} HTTP/1.1\r\nHost: metadata\r\n{}\r\n\r\n", method, path, field);
    if (::send(socket_.get(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
      return no_answer();
    std::size_t body = 0;
    while ((body = text_.find("\r\n\r\n")) == std::string::npos)
      if (!receive()) return no_answer();
    body += 4;
    const auto length = length_in(std::string_view{text_}.substr(0, body));
    const auto status = text_.starts_with("HTTP/1.") && text_.size() > 12
                            ? whole_number<unsigned>(std::string_view{text_}.substr(9, 3))
                            : std::nullopt;
    if (!length || !status || *length > kLongestAnswer) return no_answer();
    while (text_.size() < body + *length)
      if (!receive()) return no_answer();
    Answer answer{.status = *status, .body = text_.substr(body, *length)};
    text_.erase(0, body + *length);
    return answer;
  }

 private:
  bool receive() {
    std::array<char, 2048> piece;
    const ssize_t count = ::recv(socket_.get(), piece.data(), piece.size(), 0);
    if (count <= 0 || text_.size() > 2 * kLongestAnswer) return false;
    text_.append(piece.data(), static_cast<std::size_t>(count));
    return true;
  }

  static std::optional<std::size_t> length_in(std::string_view head) {
    constexpr std::string_view kField = "\r\ncontent-length:";
    const auto found = std::ranges::search(
        head, kField, {}, [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    if (found.empty()) return std::nullopt;
    std::string_view rest{found.end(), head.end()};
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    return whole_number<std::size_t>(rest.substr(0, rest.find('\r')));
  }

  OwnedFd socket_;
  std::string text_;
};

bool is_hostname(std::string_view text) {
  return text.size() <= kLongestHostname && !text.empty() && text.front() != '-' &&
         std::ranges::all_of(text, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
         });
}

std::optional<in_addr> parse_ipv4(const std::string& text) {
  in_addr address{};
  if (::inet_pton(AF_INET, text.c_str(), &address) != 1) return std::nullopt;
  return address;
}

std::unexpected<Error> wrong_field(const char* name, const std::string& value, const char* wanted) {
  return fail(ErrorKind::InvalidArgument, "the metadata's mayfly/{} '{}' must be {}", name,
              printable(value, kLongestShownName), wanted);
}

Status read_field(const char* name, const std::string& value, Identity& identity) {
  const std::string_view field = name;
  if (field == "hostname") {
    if (!is_hostname(value)) return wrong_field(name, value, "a name of up to 64 letters, digits, dots and hyphens");
    identity.hostname = value;
  } else if (field == "address") {
    identity.address = parse_guest_address(value);
    if (!identity.address) return wrong_field(name, value, "like 10.0.0.7/24");
  } else if (field == "gateway") {
    identity.gateway = parse_ipv4(value);
    if (!identity.gateway) return wrong_field(name, value, "an IPv4 address");
  } else {
    if (!parse_ipv4(value)) return wrong_field(name, value, "an IPv4 address");
    identity.nameserver = value;
  }
  return {};
}

sockaddr as_sockaddr(in_addr address) {
  sockaddr_in whole{};
  whole.sin_family = AF_INET;
  whole.sin_addr = address;
  return std::bit_cast<sockaddr>(whole);
}

Status set_address(int socket, const GuestAddress& address) {
  ifreq request{};
  std::memcpy(request.ifr_name, kInterface, std::strlen(kInterface));
  request.ifr_addr = as_sockaddr(address.address);
  if (::ioctl(socket, SIOCSIFADDR, &request) != 0)
    return fail_errno(ErrorKind::System, "the address of {} cannot be set", kInterface);
  request.ifr_netmask = as_sockaddr(address.mask);
  if (::ioctl(socket, SIOCSIFNETMASK, &request) != 0)
    return fail_errno(ErrorKind::System, "the mask of {} cannot be set", kInterface);
  return {};
}

Status set_gateway(int socket, in_addr gateway) {
  rtentry route{};
  route.rt_dst = as_sockaddr({});
  route.rt_genmask = as_sockaddr({});
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  while (::ioctl(socket, SIOCDELRT, &route) == 0) {  // the template's
  }
  route.rt_gateway = as_sockaddr(gateway);
  if (::ioctl(socket, SIOCADDRT, &route) == 0) return {};
  return fail_errno(ErrorKind::System, "the route by the gateway cannot be set");
}

/// Not through a link of the image's.
Status write_whole(const char* path, const std::string& text) {
  const OwnedFd file{::open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644)};
  if (file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) return {};
  return fail_errno(ErrorKind::System, "{} cannot be written", path);
}

}  // namespace

std::optional<GuestAddress> parse_guest_address(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const auto address = parse_ipv4(std::string{text.substr(0, slash)});
  const auto length = whole_number<unsigned>(text.substr(slash + 1));
  if (!address || !length || *length == 0 || *length > 32) return std::nullopt;
  return GuestAddress{.address = *address, .mask = {.s_addr = htonl(~std::uint32_t{0} << (32 - *length))}};
}

Result<std::optional<Identity>> fetch_identity(const sockaddr_in& service, std::chrono::milliseconds patience) {
  Service metadata{patience};
  const bool is_there = TRY(metadata.connect(service));
  if (!is_there) return std::nullopt;
  const auto token = TRY(metadata.ask("PUT", "/latest/api/token", "X-metadata-token-ttl-seconds: 60"));
  // The older protocol knows no tokens, and needs none.
  const std::string field = "X-metadata-token: " + (token.status == 200 ? token.body : std::string{"none"});
  const auto known = TRY(metadata.ask("GET", "/mayfly", field));
  if (known.status != 200) return std::nullopt;
  Identity identity;
  for (const char* name : {"hostname", "address", "gateway", "nameserver"}) {
    const auto value = TRY(metadata.ask("GET", std::string{"/mayfly/"} + name, field));
    if (value.status == 200) TRY(read_field(name, value.body, identity));
  }
  return identity;
}

std::string hosts_with(std::string_view hostname, std::string_view before, std::string_view hosts) {
  const std::string old = std::string{kOwnAddress}.append(before);
  std::string text;
  while (!hosts.empty()) {
    const std::string_view line = hosts.substr(0, hosts.find('\n'));
    hosts.remove_prefix(std::min(line.size() + 1, hosts.size()));
    if (line != old) text.append(line) += '\n';
  }
  return text.append(kOwnAddress).append(hostname) += '\n';
}

Status take_identity(const Identity& identity) {
  Status outcome;
  const auto note = [&outcome](Status done) {
    if (outcome && !done) outcome = std::move(done);
  };
  if (!identity.hostname.empty()) {
    std::array<char, kLongestHostname + 1> before{};
    (void)::gethostname(before.data(), before.size() - 1);
    if (::sethostname(identity.hostname.data(), identity.hostname.size()) != 0)
      note(fail_errno(ErrorKind::System, "the hostname cannot be set"));
    note(write_whole("/etc/hostname", identity.hostname + '\n'));
    auto hosts = read_file("/etc/hosts", "/etc/hosts", kLongestHosts);
    if (hosts || ::access("/etc/hosts", F_OK) != 0)
      note(write_whole("/etc/hosts", hosts_with(identity.hostname, before.data(), hosts.value_or(""))));
    else
      note(propagate(hosts));
  }
  if (!identity.nameserver.empty()) note(write_whole("/etc/resolv.conf", "nameserver " + identity.nameserver + '\n'));
  const OwnedFd socket{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  if (identity.address) note(set_address(socket.get(), *identity.address));
  if (identity.gateway) note(set_gateway(socket.get(), *identity.gateway));
  return outcome;
}

}  // namespace mayfly::agent
