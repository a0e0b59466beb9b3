#include "vmm/config/device_names.h"

#include "vmm/base/unix_socket.h"

#include <net/if.h>

#include <algorithm>
#include <cstddef>

namespace mayfly {
namespace {

constexpr std::size_t kLongestDeviceId = 64;
constexpr std::size_t kLongestInterfaceName = IFNAMSIZ - 1;
static_assert(kLongestInterfaceName == 15, "as the rule says");

bool is_id_letter(char letter) {
  return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') || (letter >= '0' && letter <= '9') ||
         letter == '_' || letter == '-';
}

bool is_name_letter(char letter) {
  return static_cast<unsigned char>(letter) > ' ' && letter != '\x7F' && letter != '/' && letter != ':' &&
         letter != '%';
}

}  // namespace

bool is_device_id(std::string_view id) noexcept {
  return !id.empty() && id.size() <= kLongestDeviceId && std::ranges::all_of(id, is_id_letter);
}

bool is_socket_path(std::string_view path) noexcept {
  return !path.empty() && path.size() <= kLongestSocketPath && !path.contains('\0');
}

bool is_channel(const ChannelConfig& channel) noexcept {
  return channel.port != 0 && channel.port != kMetadataPort && is_socket_path(channel.uds_path);
}

bool is_interface_name(std::string_view name) noexcept {
  return !name.empty() && name.size() <= kLongestInterfaceName && name != "." && name != ".." &&
         std::ranges::all_of(name, is_name_letter);
}

}  // namespace mayfly
