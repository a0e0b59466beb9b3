#pragma once

#include "api/responses.h"

#include <utility>
#include <variant>

namespace mayfly {

/// A request from parsing to answer, as a client of the server sees it. Waits for the target.
inline ApiResponse answer_request(const ApiRequest& request, CommandTarget& target) {
  auto begun = begin_request(request, target);
  if (auto* response = std::get_if<ApiResponse>(&begun)) return std::move(*response);
  auto& command = std::get<Command>(begun);
  const int if_too_large = status_if_too_large(command);
  return command_response(target.execute(std::move(command)), if_too_large);
}

}  // namespace mayfly
