#include "api/schema.h"
#include "vmm/config/device_names.h"
#include "vmm/config/ipv4_address.h"

namespace mayfly {
namespace {

constexpr JsonName<MmdsVersion> kVersions[] = {{"V1", MmdsVersion::V1}, {"V2", MmdsVersion::V2}};
constexpr JsonArray kInterfaceIds{JsonChecked{.good = is_device_id, .rule = kDeviceIdRule}};

Result<Ipv4Address> read_mmds_address(const JsonValue& json, const std::string& where) {
  const auto text = JsonString{}(json, where);
  if (!text) return std::unexpected(text.error());
  auto address = parse_mmds_address(*text);
  if (!address) return propagate(address, where);
  return address;
}

}  // namespace

Result<MmdsConfig> read_mmds_config(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  MmdsConfig mmds;
  mmds.version = fields.optional("version", JsonEnum<MmdsVersion>{kVersions}).value_or(mmds.version);
  mmds.network_interfaces = fields.required("network_interfaces", kInterfaceIds);
  mmds.ipv4_address = fields.optional("ipv4_address", read_mmds_address).value_or(mmds.ipv4_address);
  mmds.imds_compat = fields.optional("imds_compat", JsonBool{}).value_or(mmds.imds_compat);
  return fields.finish(std::move(mmds));
}

void write_mmds_config(JsonWriter& json, const MmdsConfig& mmds) {
  json.begin_object();
  json.field("version", json_name(kVersions, mmds.version));
  json.key("network_interfaces");
  json.begin_array();
  for (const std::string& id : mmds.network_interfaces) json.value(std::string_view{id});
  json.end_array();
  json.field("ipv4_address", format_ipv4_address(mmds.ipv4_address));
  json.field("imds_compat", mmds.imds_compat);
  json.end_object();
}

Result<JsonValue> read_metadata(const JsonValue& json, const std::string& where) {
  if (std::holds_alternative<JsonValue::Object>(json.data)) return json;
  // Does not quote the value: it may be a secret, and refusals are logged.
  return fail(ErrorKind::InvalidArgument, "{} must be a JSON object", where);
}

}  // namespace mayfly
