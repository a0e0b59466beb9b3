#include "api/requests.h"

#include "api/json_reader.h"
#include "api/schema.h"
#include "vmm/config/device_names.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace mayfly {
namespace {

/// A request whose route has been found.
struct Match {
  const ApiRequest& request;
  std::string where;         ///< The path without its first slash.
  std::string_view id_name;  ///< Where the route has an id: what it is called, and the id itself.
  std::string_view id;
};
using MakeCall = Result<ApiCall> (*)(const Match& match);

Result<JsonValue> parse_body(const ApiRequest& request) {
  auto json = parse_json(request.body, "the body");
  if (!json) return propagate(json, fmt::format("{} {}", request.method, request.path));
  return json;
}

/// A command without a body.
template <typename C>
Result<ApiCall> bare(const Match&) {
  return Command{C{}};
}

/// A command whose `value` is the body.
template <typename C, auto read>
Result<ApiCall> with_body(const Match& match) {
  const auto json = parse_body(match.request);
  if (!json) return std::unexpected(json.error());
  auto value = read(*json, match.where);
  if (!value) return propagate(value);
  return Command{C{std::move(*value)}};
}

/// The same where the path ends in an id. The body has the id, too, as `value.*id`; it must be the same.
template <typename C, auto read, auto id>
Result<ApiCall> with_id(const Match& match) {
  const ApiRequest& request = match.request;
  if (!is_device_id(match.id)) {
    return fail(ErrorKind::InvalidArgument, "{} {}: the id in the path must be {}, not {}", request.method,
                in_quotes(request.path), kDeviceIdRule, in_quotes(match.id));
  }
  auto call = with_body<C, read>(match);
  if (!call) return call;
  const std::string in_body = fmt::format("{}", std::get<C>(std::get<Command>(*call)).value.*id);
  if (in_body == match.id) return call;
  return fail(ErrorKind::InvalidArgument, "{}.{} is {}, but the path says {}: they must be the same", match.where,
              match.id_name, in_quotes(in_body), in_quotes(match.id));
}

Result<ApiCall> get_version(const Match&) { return GetVersion{}; }

enum class Action { InstanceStart, FlushMetrics, SendCtrlAltDel, FinishWorkingSet };
constexpr JsonName<Action> kActions[] = {{"InstanceStart", Action::InstanceStart},
                                         {"FlushMetrics", Action::FlushMetrics},
                                         {"SendCtrlAltDel", Action::SendCtrlAltDel},
                                         {"FinishWorkingSet", Action::FinishWorkingSet}};

Result<ApiCall> put_action(const Match& match) {
  const auto json = parse_body(match.request);
  if (!json) return std::unexpected(json.error());
  JsonFields fields{*json, match.where};
  const auto action = fields.finish(fields.required("action_type", JsonEnum<Action>{kActions}));
  if (!action) return std::unexpected(action.error());
  switch (*action) {
    case Action::InstanceStart:
      return Command{StartInstance{}};
    case Action::FlushMetrics:
      return Command{FlushMetrics{}};
    case Action::SendCtrlAltDel:
      return Command{SendCtrlAltDel{}};
    case Action::FinishWorkingSet:
      break;
  }
  return Command{FinishWorkingSet{}};
}

Result<ApiCall> create_snapshot(const Match& match) {
  auto call = with_body<CreateSnapshot, read_snapshot_create>(match);
  if (!call) return call;
  auto& params = std::get<CreateSnapshot>(std::get<Command>(*call)).value;
  if (params.live) return Command{CreateLiveSnapshot{std::move(params)}};
  return call;
}

enum class VmState { Paused, Resumed };
constexpr JsonName<VmState> kVmStates[] = {{"Paused", VmState::Paused}, {"Resumed", VmState::Resumed}};

Result<ApiCall> patch_vm(const Match& match) {
  const auto json = parse_body(match.request);
  if (!json) return std::unexpected(json.error());
  JsonFields fields{*json, match.where};
  const auto state = fields.finish(fields.required("state", JsonEnum<VmState>{kVmStates}));
  if (!state) return std::unexpected(state.error());
  if (*state == VmState::Paused) return Command{PauseVm{}};
  return Command{ResumeVm{}};
}

struct Route {
  ApiRoute address;
  MakeCall make_call;
};

/// Everything that is served. A new path is a line here, a reader for its body, and its description in openapi.yaml.
constexpr std::array kRoutes = std::to_array<Route>({
    {{"GET", "/"}, bare<GetInstanceInfo>},
    {{"PUT", "/actions"}, put_action},
    {{"PUT", "/boot-source"}, with_body<PutBootSource, read_boot_source>},
    {{"PUT", "/channels/{port}"}, with_id<PutChannel, read_channel, &ChannelConfig::port>},
    {{"PUT", "/cpu-config"}, with_body<PutCpuConfig, read_cpu_config>},
    {{"PUT", "/drives/{drive_id}"}, with_id<PutDrive, read_drive, &DriveConfig::drive_id>},
    {{"PATCH", "/drives/{drive_id}"}, with_id<PatchDrive, read_drive_patch, &DrivePatch::drive_id>},
    {{"PUT", "/logger"}, with_body<PutLogger, read_logger>},
    {{"GET", "/machine-config"}, bare<GetMachineConfig>},
    {{"PUT", "/machine-config"}, with_body<PutMachineConfig, read_machine_config>},
    {{"PATCH", "/machine-config"}, with_body<PatchMachineConfig, read_machine_config_patch>},
    {{"PUT", "/metrics"}, with_body<PutMetrics, read_metrics>},
    {{"GET", "/memory"}, bare<GetMemory>},
    {{"GET", "/memory/dirty"}, bare<GetDirtyMemory>},
    {{"GET", "/memory/mappings"}, bare<GetMemoryMappings>},
    {{"GET", "/metrics/prometheus"}, bare<GetPrometheusMetrics>},
    {{"GET", "/mmds"}, bare<GetMmds>},
    {{"PUT", "/mmds"}, with_body<PutMmds, read_metadata>},
    {{"PATCH", "/mmds"}, with_body<PatchMmds, read_metadata>},
    {{"PUT", "/mmds/config"}, with_body<PutMmdsConfig, read_mmds_config>},
    {{"PUT", "/network-interfaces/{iface_id}"},
     with_id<PutNetworkInterface, read_network_interface, &NetworkInterfaceConfig::iface_id>},
    {{"PATCH", "/network-interfaces/{iface_id}"},
     with_id<PatchNetworkInterface, read_network_interface_patch, &NetworkInterfacePatch::iface_id>},
    {{"PUT", "/serial"}, with_body<PutSerial, read_serial>},
    {{"GET", "/snapshot"}, bare<GetSnapshot>},
    {{"DELETE", "/snapshot"}, bare<CancelSnapshot>},
    {{"PUT", "/snapshot/create"}, create_snapshot},
    {{"PUT", "/snapshot/load"}, with_body<LoadSnapshot, read_snapshot_load>},
    {{"PUT", "/snapshot/revert"}, with_body<RevertSnapshot, read_snapshot_revert>},
    {{"GET", "/version"}, get_version},
    {{"PATCH", "/vm"}, patch_vm},
    {{"PUT", "/vm/branch"}, with_body<BranchVm, read_branch>},
    {{"GET", "/vm/config"}, bare<GetVmConfig>},
});

/// A path that ends in "{name}", taken apart.
struct Pattern {
  std::string_view parent;   ///< Up to the last slash; the whole path where there is no id.
  std::string_view id_name;  ///< Empty where there is no id.
};

constexpr Pattern pattern_of(std::string_view path) {
  const std::size_t brace = path.find('{');
  if (brace == std::string_view::npos) return {path, {}};
  return {path.substr(0, brace - 1), path.substr(brace + 1, path.size() - brace - 2)};
}

/// The id that `path` has where `pattern` has one (any text without a slash); empty where the pattern has none;
/// nullopt where the path is another.
std::optional<std::string_view> match_path(std::string_view pattern, std::string_view path) {
  const auto [parent, id_name] = pattern_of(pattern);
  if (id_name.empty()) return path == pattern ? std::optional{std::string_view{}} : std::nullopt;
  if (!path.starts_with(parent) || path.size() < parent.size() + 2 || path[parent.size()] != '/') return std::nullopt;
  const std::string_view id = path.substr(parent.size() + 1);
  return id.contains('/') ? std::nullopt : std::optional{id};
}

/// Paths of the dialect whose devices Mayfly does not have, by their first segment.
struct AbsentDevice {
  std::string_view segment;
  std::string_view name;
};
constexpr std::array kAbsentDevices = std::to_array<AbsentDevice>({
    {"balloon", "balloon device"},
    {"entropy", "entropy device"},
    {"hotplug", "memory hotplug device"},
    {"pmem", "persistent memory device"},
    {"vsock", "vsock device"},
});

/// The path is there, but not for this method.
std::optional<ApiRefusal> refuse_method(const ApiRequest& request) {
  std::string_view path;
  std::string methods;
  for (const auto& [route, make_call] : kRoutes) {
    if (!match_path(route.path, request.path)) continue;
    path = route.path;
    methods += fmt::format("{}{}", methods.empty() ? "" : ", ", route.method);
  }
  if (path.empty()) return std::nullopt;
  return ApiRefusal{
      400, fmt::format("{0} {1}: the API has no such method here; {1} takes {2}", request.method, path, methods)};
}

/// The path is near one that ends in an id: the id is missing, or more follows.
std::optional<ApiRefusal> refuse_id(const ApiRequest& request) {
  for (const auto& [route, make_call] : kRoutes) {
    const auto [parent, id_name] = pattern_of(route.path);
    if (id_name.empty() || request.method != route.method || !request.path.starts_with(parent)) continue;
    const std::string_view rest = request.path.substr(parent.size());
    if (rest.empty() || rest == "/")
      return ApiRefusal{400,
                        fmt::format("{0} {1}: the id is missing; use {0} {2}", request.method, parent, route.path)};
    if (rest.starts_with('/'))
      return ApiRefusal{400, fmt::format("{} {}: the API has no such path; it has {}", request.method,
                                         in_quotes(request.path), route.path)};
  }
  return std::nullopt;
}

ApiRefusal refuse_unknown(const ApiRequest& request) {
  const std::string_view below = request.path.empty() ? "" : request.path.substr(1);
  const auto absent = std::ranges::find(kAbsentDevices, below.substr(0, below.find('/')), &AbsentDevice::segment);
  if (absent != kAbsentDevices.end()) {
    return {400, fmt::format("{} {}: Mayfly has no {}; it has {}", request.method, request.path, absent->name,
                             kDevicesThatExist)};
  }
  if (auto refusal = refuse_method(request)) return *std::move(refusal);
  if (auto refusal = refuse_id(request)) return *std::move(refusal);
  return {400, fmt::format("{} {}: the API has no such path", request.method, in_quotes(request.path))};
}

}  // namespace

std::vector<ApiRoute> api_routes() {
  std::vector<ApiRoute> routes;
  std::ranges::transform(kRoutes, std::back_inserter(routes), &Route::address);
  return routes;
}

std::expected<ApiCall, ApiRefusal> parse_request(const ApiRequest& given) {
  ApiRequest request = given;
  if (request.path.size() > 1 && request.path.ends_with('/')) request.path.remove_suffix(1);
  const auto route = std::ranges::find_if(kRoutes, [&](const Route& each) {
    return each.address.method == request.method && match_path(each.address.path, request.path);
  });
  if (route == kRoutes.end()) return std::unexpected(refuse_unknown(request));
  if ((request.method == "GET" || request.method == "DELETE") && !request.body.empty()) {
    return std::unexpected(ApiRefusal{400, fmt::format("{} {} takes no body", request.method, request.path)});
  }
  auto call = route->make_call({.request = request,
                                .where = std::string{request.path.substr(1)},
                                .id_name = pattern_of(route->address.path).id_name,
                                .id = *match_path(route->address.path, request.path)});
  if (!call) return std::unexpected(ApiRefusal{400, std::move(call.error().message)});
  return std::move(*call);
}

}  // namespace mayfly
