#pragma once

#include "api/requests.h"
#include "vmm/machine/command.h"

#include <string>
#include <string_view>
#include <variant>

/// Answers and refusals as HTTP status and body.
///
///   auto begun = begin_request({.method = "GET", .path = "/", .body = ""}, controller);
///   if (auto* response = std::get_if<ApiResponse>(&begun)) return *response;
///   controller.submit(std::get<Command>(std::move(begun)), std::move(reply));   // its answer: command_response()
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

/// What a command answered: 204, 200 with a body, or an error's message with 400, or with `if_too_large` where something is
/// over a limit.
[[nodiscard]] ApiResponse command_response(const Result<Answer>& answer, int if_too_large = 400);
/// 413 of metadata, by which the dialect's clients know that they have to send less; 400 of other commands.
[[nodiscard]] int status_if_too_large(const Command& command) noexcept;

/// The command that a request makes; or its response, where that takes no command: a refusal, which `target` is told
/// of, or the version.
[[nodiscard]] std::variant<ApiResponse, Command> begin_request(const ApiRequest& request, CommandTarget& target);

/// The whole configuration in the shape that parse_config_file() loads.
[[nodiscard]] std::string vm_config_json(const VmConfig& config);

}  // namespace mayfly
