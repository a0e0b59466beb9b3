#pragma once

#include "api/requests.h"
#include "vmm/machine/command.h"

#include <string>
#include <string_view>

/// What a client is told: answers and refusals as HTTP status and body.
///
///   const ApiResponse response = answer_request({.method = "GET", .path = "/", .body = ""}, controller);
///   // 200 {"id":"anonymous-instance","state":"Not started","vmm_version":"0.1.0","app_name":"Mayfly"}
namespace mayfly {

/// The version of the dialect that is spoken: what GET /version names as firecracker_version.
inline constexpr std::string_view kDialectVersion = "1.17.0";

struct ApiResponse {
  int status = 204;
  std::string body;  ///< Empty where the status is 204.
  std::string_view content_type = "application/json";
};

/// A refusal: {"fault_message": "..."} with its status.
[[nodiscard]] ApiResponse refusal_response(const ApiRefusal& refusal);

/// What a command answered: 204, 200 with a body, or 400 with the error's message.
[[nodiscard]] ApiResponse command_response(const Result<Answer>& answer);

/// A request from parsing to answer. Waits for the target; on the thread that asks.
[[nodiscard]] ApiResponse answer_request(const ApiRequest& request, CommandTarget& target);

/// The whole configuration in the shape that parse_config_file() loads.
[[nodiscard]] std::string vm_config_json(const VmConfig& config);

}  // namespace mayfly
