#include "api/schema.h"
#include "vmm/config/device_names.h"

namespace mayfly {
namespace {

constexpr JsonChecked kSocketPath{.good = is_socket_path, .rule = kSocketPathRule};

Result<std::uint16_t> read_channel_port(const JsonValue& json, const std::string& where) {
  const auto port = JsonWhole{1, 65'535}(json, where);
  if (!port) return std::unexpected(port.error());
  if (*port == kMetadataPort)
    return fail(ErrorKind::InvalidArgument, "{} must be another than {}, where metadata are served", where,
                kMetadataPort);
  return static_cast<std::uint16_t>(*port);
}

Result<ChannelOverride> read_channel_override(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  ChannelOverride channel{.port = fields.required("port", read_channel_port),
                          .uds_path = fields.required("uds_path", kSocketPath)};
  return fields.finish(std::move(channel));
}

}  // namespace

Result<ChannelConfig> read_channel(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  ChannelConfig channel{.port = fields.required("port", read_channel_port),
                        .uds_path = fields.required("uds_path", kSocketPath),
                        .listen = fields.optional("listen", JsonBool{}).value_or(false)};
  return fields.finish(std::move(channel));
}

void write_channel(JsonWriter& json, const ChannelConfig& channel) {
  json.begin_object();
  json.field("port", channel.port);
  json.field("uds_path", channel.uds_path);
  json.field("listen", channel.listen);
  json.end_object();
}

std::vector<ChannelOverride> read_channel_overrides(JsonFields& fields, const std::string& where) {
  auto overrides =
      fields.optional("channel_overrides", JsonArray{read_channel_override}).value_or(std::vector<ChannelOverride>{});
  for (std::size_t i = 0; i < overrides.size(); ++i)
    for (std::size_t other = 0; other < i; ++other)
      if (overrides[i].port == overrides[other].port)
        fields.refuse(fmt::format("{}.channel_overrides[{}] is for {} once more; name each channel once", where, i,
                                  overrides[i].port));
  return overrides;
}

}  // namespace mayfly
