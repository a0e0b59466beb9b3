#pragma once

#include "api/responses.h"

#include <utility>
#include <variant>

namespace mayfly {

/// A request from parsing to answer, as a client of the server sees it. Waits for the target.
inline ApiResponse answer_request(const ApiRequest& request, CommandTarget& target) {
  auto begun = begin_request(request, target);
  if (auto* response = std::get_if<ApiResponse>(&begun)) return std::move(*response);
  return command_response(target.execute(std::get<Command>(std::move(begun))));
}

}  // namespace mayfly
