#pragma once

#include "api/config_file.h"
#include "api/requests.h"

#include <gtest/gtest.h>

/// What requests and configuration files are taken for.
namespace mayfly {

/// Why a request is refused, with `status`; a failed test where it is not.
inline std::string refusal(std::string_view method, std::string_view path, std::string_view body) {
  const auto call = parse_request({.method = method, .path = path, .body = body});
  EXPECT_FALSE(call) << method << ' ' << path << ' ' << body;
  if (call) return "";
  EXPECT_EQ(call.error().status, 400) << call.error().fault_message;
  return call.error().fault_message;
}

/// The command that a request makes; a default-made one, and a failed test, where it makes another or none.
template <typename C>
C command(std::string_view method, std::string_view path, std::string_view body = "") {
  auto call = parse_request({.method = method, .path = path, .body = body});
  EXPECT_TRUE(call) << call.error().fault_message;
  if (!call || !std::holds_alternative<Command>(*call)) return C{};
  auto* held = std::get_if<C>(&std::get<Command>(*call));
  EXPECT_NE(held, nullptr) << method << ' ' << path << " makes another command";
  return held == nullptr ? C{} : std::move(*held);
}

/// The commands of a configuration file, all of whose sections are known.
inline Result<std::vector<Command>> config_commands(std::string_view text) {
  auto file = parse_config_file(text);
  if (!file) return propagate(file);
  EXPECT_EQ(file->unknown_sections, std::vector<std::string>{});
  return std::move(file->commands);
}

}  // namespace mayfly
