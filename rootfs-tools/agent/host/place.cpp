#include "rootfs-tools/agent/host/place.h"

#include "api/client/api_client.h"
#include "rootfs-tools/agent/protocol.h"
#include "vmm/base/files.h"
#include "vmm/base/json_value.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <variant>

#include <fmt/format.h>

namespace mayfly::agent {
namespace {

/// A monitor that is stopped keeps nobody waiting for what can be guessed.
constexpr std::chrono::seconds kConfigPatience{2};

/// Null: there is none, or no object.
const JsonValue* member_of(const JsonValue& object, std::string_view name) {
  const auto* const members = std::get_if<JsonValue::Object>(&object.data);
  if (members == nullptr) return nullptr;
  const auto found = std::ranges::find(*members, name, &JsonMember::name);
  return found == members->end() ? nullptr : &found->value;
}

template <typename Value>
const Value* value_of(const JsonValue& object, std::string_view name) {
  const JsonValue* const member = member_of(object, name);
  return member == nullptr ? nullptr : std::get_if<Value>(&member->data);
}

/// The number of a channel's port, however the parser keeps it.
bool has_agents_port(const JsonValue& channel) {
  const auto* const plain = value_of<std::int64_t>(channel, "port");
  const auto* const large = value_of<std::uint64_t>(channel, "port");
  return (plain != nullptr && *plain == kDefaultPort) || (large != nullptr && *large == kDefaultPort);
}

}  // namespace

std::optional<std::string> agent_socket_in(const std::string& config) {
  const auto json = parse_json(config, "the configuration");
  const auto* const channels = json ? value_of<JsonValue::Array>(*json, "channels") : nullptr;
  if (channels == nullptr) return std::nullopt;
  for (const JsonValue& channel : *channels) {
    const auto* const listens = value_of<bool>(channel, "listen");
    const auto* const path = value_of<std::string>(channel, "uds_path");
    if (listens != nullptr && *listens && path != nullptr && has_agents_port(channel)) return *path;
  }
  return std::nullopt;
}

std::string reached_from_here(const RunningMachine& machine, const std::string& path) {
  if (!path.starts_with('/')) return machine.pid == 0 ? path : fmt::format("/proc/{}/cwd/{}", machine.pid, path);
  const bool shows_root = machine.own_socket.starts_with('/') && machine.socket.ends_with(machine.own_socket);
  return machine.socket.substr(0, shows_root ? machine.socket.size() - machine.own_socket.size() : 0) + path;
}

Result<AgentPlace> find_agent(const std::string& machine, const std::string& agent_socket) {
  if (!agent_socket.empty()) return AgentPlace{.socket = agent_socket};
  const auto found = TRY(find_machine(machine, running_machines()));
  AgentPlace place{.socket = directory_of(found.socket) + (found.socket.contains('/') ? "" : "/") + kAgentSocket,
                   .process = found.pid};
  const auto config =
      ApiClient{found.socket, {.patience = kConfigPatience, .process = found.pid}}.send("GET", "/vm/config");
  if (!config) return place;  // whoever connects to the agent's socket says what is wrong
  if (const auto told = agent_socket_in(*config)) place.socket = reached_from_here(found, *told);
  return place;
}

}  // namespace mayfly::agent
