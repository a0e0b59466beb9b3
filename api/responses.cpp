#include "api/responses.h"

#include "api/schema.h"
#include "vmm/base/json_writer.h"
#include "vmm/machine/machine_state.h"

#include <utility>

namespace mayfly {
namespace {

ApiResponse response_to(std::monostate) { return {.status = 204, .body = {}}; }

ApiResponse response_to(const InstanceInfo& info) {
  JsonWriter json;
  json.begin_object();
  json.field("id", info.id);
  json.field("state", name_of(info.state));
  json.field("vmm_version", MAYFLY_VERSION);
  json.field("app_name", "Mayfly");
  json.end_object();
  return {.status = 200, .body = std::move(json).take()};
}

ApiResponse response_to(const MachineConfig& config) {
  JsonWriter json;
  write_machine_config(json, config);
  return {.status = 200, .body = std::move(json).take()};
}

ApiResponse response_to(const VmConfig& config) { return {.status = 200, .body = vm_config_json(config)}; }

ApiResponse response_to(const PrometheusText& metrics) {
  return {.status = 200, .body = metrics.text, .content_type = "text/plain; version=0.0.4"};
}

ApiResponse response_to(const MmdsContents& contents) { return {.status = 200, .body = contents.json}; }

ApiResponse response_to(const SnapshotStatus& status) {
  JsonWriter json;
  json.begin_object();
  json.field("state", status.is_written ? "Writing" : "None");
  if (status.is_written) {
    json.field("snapshot_path", status.snapshot_path);
    json.field("mem_file_path", status.mem_file_path);
    json.field("live", status.live);
    json.field("done_bytes", status.done_bytes);
    json.field("total_bytes", status.total_bytes);
  }
  json.end_object();
  return {.status = 200, .body = std::move(json).take()};
}

ApiResponse response_to(const Branched& branched) {
  JsonWriter json;
  json.begin_object();
  json.key("children");
  json.begin_array();
  for (const BranchedChild& child : branched.children) {
    json.begin_object();
    json.field("id", child.id);
    json.field("api_socket", child.api_socket);
    if (child.error.empty())
      json.field("pid", static_cast<std::uint64_t>(child.pid));
    else
      json.field("error", child.error);
    json.end_object();
  }
  json.end_array();
  json.end_object();
  return {.status = 200, .body = std::move(json).take()};
}

void write_bitmap(JsonWriter& json, std::string_view name, const PageBitmap& bitmap) {
  json.key(name);
  json.begin_array();
  for (const std::uint64_t word : bitmap) json.value(word);
  json.end_array();
}

ApiResponse response_to(const MemoryMappings& memory) {
  JsonWriter json;
  json.begin_object();
  json.key("mappings");
  json.begin_array();
  for (const MemoryMapping& mapping : memory.mappings) {
    json.begin_object();
    json.field("base_host_virt_addr", mapping.host_address);
    json.field("size", mapping.size);
    json.field("offset", mapping.offset);
    json.field("page_size", mapping.page_size);
    json.end_object();
  }
  json.end_array();
  json.end_object();
  return {.status = 200, .body = std::move(json).take()};
}

ApiResponse response_to(const LookedAtPages& pages) {
  JsonWriter json;
  json.begin_object();
  write_bitmap(json, "resident", pages.resident);
  write_bitmap(json, "empty", pages.empty);
  json.end_object();
  return {.status = 200, .body = std::move(json).take()};
}

ApiResponse response_to(const DirtyMemory& memory) {
  JsonWriter json;
  json.begin_object();
  write_bitmap(json, "bitmap", memory.bitmap);
  json.end_object();
  return {.status = 200, .body = std::move(json).take()};
}

ApiResponse version_response() {
  JsonWriter json;
  json.begin_object();
  json.field("firecracker_version", kDialectVersion);
  json.field("mayfly_version", MAYFLY_VERSION);
  json.end_object();
  return {.status = 200, .body = std::move(json).take()};
}

template <typename Section>
void write_section(JsonWriter& json, std::string_view name, const std::optional<Section>& section,
                   void (*write)(JsonWriter&, const Section&)) {
  if (!section) return;
  json.key(name);
  write(json, *section);
}

template <typename Element>
void write_array(JsonWriter& json, std::string_view name, const std::vector<Element>& elements,
                 void (*write)(JsonWriter&, const Element&)) {
  json.key(name);
  json.begin_array();
  for (const Element& element : elements) write(json, element);
  json.end_array();
}

}  // namespace

std::string vm_config_json(const VmConfig& config) {
  JsonWriter json;
  json.begin_object();
  write_section(json, "boot-source", config.boot_source, write_boot_source);
  json.key("machine-config");
  write_machine_config(json, config.machine);
  write_section(json, "cpu-config", config.cpu, write_cpu_config);
  write_array(json, "drives", config.drives, write_drive);
  write_array(json, "network-interfaces", config.network_interfaces, write_network_interface);
  write_section(json, "mmds-config", config.mmds, write_mmds_config);
  if (!config.channels.empty()) write_array(json, "channels", config.channels, write_channel);
  write_section(json, "logger", config.logger, write_logger);
  write_section(json, "metrics", config.metrics, write_metrics);
  write_section(json, "serial", config.serial, write_serial);
  json.end_object();
  return std::move(json).take();
}

ApiResponse refusal_response(const ApiRefusal& refusal) {
  JsonWriter json;
  json.begin_object();
  json.field("fault_message", refusal.fault_message);
  json.end_object();
  return {.status = refusal.status, .body = std::move(json).take()};
}

ApiResponse command_response(const Result<Answer>& answer, int if_too_large) {
  if (!answer)
    return refusal_response({.status = answer.error().kind == ErrorKind::TooLarge ? if_too_large : 400,
                             .fault_message = answer.error().message});
  return std::visit([](const auto& held) { return response_to(held); }, *answer);
}

int status_if_too_large(const Command& command) noexcept {
  return std::holds_alternative<PutMmds>(command) || std::holds_alternative<PatchMmds>(command) ? 413 : 400;
}

std::variant<ApiResponse, Command> begin_request(const ApiRequest& request, CommandTarget& target) {
  auto call = parse_request(request);
  if (!call) {
    target.refused(request.method, call.error().fault_message);
    return refusal_response(call.error());
  }
  if (auto* command = std::get_if<Command>(&*call)) return std::move(*command);
  return version_response();
}

}  // namespace mayfly
