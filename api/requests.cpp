#include "api/requests.h"

#include "api/cpu_config_json.h"
#include "api/json_reader.h"
#include "api/machine_json.h"
#include "api/output_json.h"

#include <algorithm>
#include <array>

namespace mayfly {
namespace {

/// Makes the call of a request whose route has been found. `where` is the path without its first slash.
using MakeCall = Result<ApiCall> (*)(const ApiRequest& request, const std::string& where);

Result<JsonValue> parse_body(const ApiRequest& request) {
  auto json = parse_json(request.body, "the body");
  if (!json) return propagate(json, fmt::format("{} {}", request.method, request.path));
  return json;
}

/// A command without a body.
template <typename C>
Result<ApiCall> bare(const ApiRequest&, const std::string&) {
  return Command{C{}};
}

/// A command whose `value` is the body.
template <typename C, auto read>
Result<ApiCall> with_body(const ApiRequest& request, const std::string& where) {
  const auto json = parse_body(request);
  if (!json) return std::unexpected(json.error());
  auto value = read(*json, where);
  if (!value) return propagate(value);
  return Command{C{std::move(*value)}};
}

Result<ApiCall> get_version(const ApiRequest&, const std::string&) { return GetVersion{}; }

enum class Action { InstanceStart, FlushMetrics, SendCtrlAltDel };
constexpr JsonName<Action> kActions[] = {{"InstanceStart", Action::InstanceStart},
                                         {"FlushMetrics", Action::FlushMetrics},
                                         {"SendCtrlAltDel", Action::SendCtrlAltDel}};

Result<ApiCall> put_action(const ApiRequest& request, const std::string& where) {
  const auto json = parse_body(request);
  if (!json) return std::unexpected(json.error());
  JsonFields fields{*json, where};
  const auto action = fields.finish(fields.required("action_type", JsonEnum<Action>{kActions}));
  if (!action) return std::unexpected(action.error());
  switch (*action) {
    case Action::InstanceStart:
      return Command{StartInstance{}};
    case Action::FlushMetrics:
      return Command{FlushMetrics{}};
    case Action::SendCtrlAltDel:
      break;
  }
  return Command{SendCtrlAltDel{}};
}

enum class VmState { Paused, Resumed };
constexpr JsonName<VmState> kVmStates[] = {{"Paused", VmState::Paused}, {"Resumed", VmState::Resumed}};

Result<ApiCall> patch_vm(const ApiRequest& request, const std::string& where) {
  const auto json = parse_body(request);
  if (!json) return std::unexpected(json.error());
  JsonFields fields{*json, where};
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
    {{"PUT", "/cpu-config"}, with_body<PutCpuConfig, read_cpu_config>},
    {{"PUT", "/logger"}, with_body<PutLogger, read_logger>},
    {{"GET", "/machine-config"}, bare<GetMachineConfig>},
    {{"PUT", "/machine-config"}, with_body<PutMachineConfig, read_machine_config>},
    {{"PATCH", "/machine-config"}, with_body<PatchMachineConfig, read_machine_config_patch>},
    {{"PUT", "/metrics"}, with_body<PutMetrics, read_metrics>},
    {{"GET", "/metrics/prometheus"}, bare<GetPrometheusMetrics>},
    {{"PUT", "/serial"}, with_body<PutSerial, read_serial>},
    {{"GET", "/version"}, get_version},
    {{"PATCH", "/vm"}, patch_vm},
    {{"GET", "/vm/config"}, bare<GetVmConfig>},
});

constexpr std::array kAddresses = [] {
  std::array<ApiRoute, kRoutes.size()> addresses;
  std::ranges::transform(kRoutes, addresses.begin(), &Route::address);
  return addresses;
}();

/// Paths of the dialect whose devices Mayfly does not have, by their first segment.
struct AbsentDevice {
  std::string_view segment;
  std::string_view name;
};
constexpr std::array kAbsentDevices = std::to_array<AbsentDevice>({
    {"balloon", "balloon device"},
    {"drives", "block device"},
    {"entropy", "entropy device"},
    {"hotplug", "memory hotplug device"},
    {"mmds", "metadata service"},
    {"network-interfaces", "network device"},
    {"pmem", "persistent memory device"},
    {"snapshot", "snapshots"},
    {"vsock", "vsock device"},
});

ApiRefusal refuse_unknown(const ApiRequest& request) {
  const std::string_view below = request.path.empty() ? "" : request.path.substr(1);
  const auto absent = std::ranges::find(kAbsentDevices, below.substr(0, below.find('/')), &AbsentDevice::segment);
  if (absent != kAbsentDevices.end()) {
    return {400, fmt::format("{} {}: Mayfly has no {}; it has {}", request.method, request.path, absent->name,
                             kDevicesThatExist)};
  }
  std::string methods;
  for (const ApiRoute& route : kAddresses) {
    if (route.path == request.path) methods += fmt::format("{}{}", methods.empty() ? "" : ", ", route.method);
  }
  if (!methods.empty()) {
    return {404, fmt::format("{} {}: the API has no such method here; {} takes {}", request.method, request.path,
                             request.path, methods)};
  }
  return {404, fmt::format("{} {}: the API has no such path", request.method, in_quotes(request.path))};
}

}  // namespace

std::span<const ApiRoute> api_routes() { return kAddresses; }

std::expected<ApiCall, ApiRefusal> parse_request(const ApiRequest& given) {
  ApiRequest request = given;
  if (request.path.size() > 1 && request.path.ends_with('/')) request.path.remove_suffix(1);
  const auto route = std::ranges::find_if(kRoutes, [&](const Route& each) {
    return each.address.path == request.path && each.address.method == request.method;
  });
  if (route == kRoutes.end()) return std::unexpected(refuse_unknown(request));
  if (request.method == "GET" && !request.body.empty()) {
    return std::unexpected(ApiRefusal{400, fmt::format("GET {} takes no body", request.path)});
  }
  auto call = route->make_call(request, std::string{request.path.substr(1)});
  if (!call) return std::unexpected(ApiRefusal{400, std::move(call.error().message)});
  return std::move(*call);
}

}  // namespace mayfly
