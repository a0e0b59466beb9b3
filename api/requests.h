#pragma once

#include "vmm/machine/command.h"

#include <expected>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/// What a client asks for: method, path and body become one typed call, or a refusal.
///
///   auto call = parse_request({.method = "PUT", .path = "/vm", .body = body});
///   if (!call) return refusal_response(call.error());   // 400
///
/// Only what can be judged without the machine is judged here. Pure functions: any thread.
namespace mayfly {

struct ApiRequest {
  std::string_view method;
  std::string_view path;  ///< Decoded, without the query.
  std::string_view body;
};

/// GET /version: answered without the machine.
struct GetVersion {};
using ApiCall = std::variant<GetVersion, Command>;

/// Why a request is refused, as the client reads it.
struct ApiRefusal {
  int status;  ///< HTTP; 400 of parse_request.
  std::string fault_message;
};

/// The call that a request makes. A slash at the end of the path does not matter, as in the dialect. Ids are compared
/// as they are in the decoded path: "/drives/%61" is the drive "a", and "/drives/a%2Fb" has a segment too many.
[[nodiscard]] std::expected<ApiCall, ApiRefusal> parse_request(const ApiRequest& request);

/// A method and path that parse_request knows; api/openapi.yaml has the same.
struct ApiRoute {
  std::string_view method;
  std::string_view path;  ///< Its last segment may stand for any id, and then names the body's field with that id.
};
[[nodiscard]] std::vector<ApiRoute> api_routes();

/// What the machine has, for refusals that name it.
inline constexpr std::string_view kDevicesThatExist =
    "drives (/drives), network interfaces (/network-interfaces), a metadata service (/mmds) and a serial console "
    "(/serial)";

}  // namespace mayfly
