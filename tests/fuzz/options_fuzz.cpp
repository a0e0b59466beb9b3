// Any text as the values of --drive and --net, as addresses and as names: what is taken holds to the rules that the API
// has for the same fields.

#include "tests/fuzz/must.h"
#include "vmm/cli/device_options.h"
#include "vmm/config/device_names.h"
#include "vmm/config/ipv4_address.h"
#include "vmm/config/mac_address.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace mayfly;

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines(1);
  for (const char c : text) {
    if (c == '\n')
      lines.emplace_back();
    else
      lines.back() += c;
  }
  return lines;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  const std::vector<std::string> values = lines_of(text);
  if (const auto drives = read_drive_options(values)) {
    must(drives->size() == values.size());
    for (const DriveConfig& drive : *drives) must(is_device_id(drive.drive_id) && !drive.path_on_host.empty());
  }
  if (const auto interfaces = read_net_options(values)) {
    must(interfaces->size() == values.size());
    for (const NetworkInterfaceConfig& interface : *interfaces)
      must(is_device_id(interface.iface_id) && is_interface_name(interface.host_dev_name));
  }
  if (const auto address = parse_mac_address(text)) must(parse_mac_address(format_mac_address(*address)) == *address);
  if (const auto address = parse_mmds_address(text)) must(format_ipv4_address(*address) == text);
  return 0;
}
