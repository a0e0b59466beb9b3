#include "api/schema.h"
#include "vmm/config/device_names.h"
#include "vmm/config/mac_address.h"

namespace mayfly {
namespace {

constexpr JsonChecked kInterfaceId{.good = is_device_id, .rule = kDeviceIdRule};
constexpr JsonChecked kTapName{.good = is_interface_name, .rule = kInterfaceNameRule};
constexpr JsonWhole kMtu{.lowest = kSmallestMtu, .highest = kLargestMtu};

}  // namespace

Result<MacAddress> read_mac_address(const JsonValue& json, const std::string& where) {
  const auto text = JsonString{}(json, where);
  if (!text) return std::unexpected(text.error());
  auto address = parse_mac_address(*text);
  if (!address) return propagate(address, where);
  return address;
}

namespace {

std::uint16_t narrow_mtu(std::uint64_t mtu) { return static_cast<std::uint16_t>(mtu); }  // kMtu has checked it

}  // namespace

Result<NetworkInterfaceConfig> read_network_interface(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  NetworkInterfaceConfig interface;
  interface.iface_id = fields.required("iface_id", kInterfaceId);
  interface.host_dev_name = fields.optional("host_dev_name", kTapName).value_or("");
  interface.guest_mac = fields.optional("guest_mac", read_mac_address);
  interface.mtu = fields.optional("mtu", kMtu).transform(narrow_mtu);
  interface.check_source_mac = fields.optional("check_source_mac", JsonBool{}).value_or(interface.check_source_mac);
  interface.rx_rate_limiter = fields.optional("rx_rate_limiter", read_rate_limiter);
  interface.tx_rate_limiter = fields.optional("tx_rate_limiter", read_rate_limiter);
  return fields.finish(std::move(interface));
}

void write_network_interface(JsonWriter& json, const NetworkInterfaceConfig& interface) {
  json.begin_object();
  json.field("iface_id", interface.iface_id);
  if (!interface.host_dev_name.empty()) json.field("host_dev_name", interface.host_dev_name);
  if (interface.guest_mac) json.field("guest_mac", format_mac_address(*interface.guest_mac));
  if (interface.mtu) json.field("mtu", *interface.mtu);
  json.field("check_source_mac", interface.check_source_mac);
  write_rate_limiter(json, "rx_rate_limiter", interface.rx_rate_limiter);
  write_rate_limiter(json, "tx_rate_limiter", interface.tx_rate_limiter);
  json.end_object();
}

Result<NetworkInterfacePatch> read_network_interface_patch(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  NetworkInterfacePatch patch{.iface_id = fields.required("iface_id", kInterfaceId),
                              .rx_rate_limiter = fields.optional("rx_rate_limiter", read_rate_limiter),
                              .tx_rate_limiter = fields.optional("tx_rate_limiter", read_rate_limiter)};
  return fields.finish(std::move(patch));
}

}  // namespace mayfly
