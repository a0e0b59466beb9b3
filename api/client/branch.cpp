// `mayfly branch`: what a machine has is looked up, and its children get names beside it.

#include "api/client/answer_reader.h"
#include "api/client/api_client.h"
#include "api/client/remote.h"
#include "api/client/running.h"
#include "vmm/base/json_value.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"
#include "vmm/base/utf8.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace mayfly {
namespace {

namespace fs = std::filesystem;

/// Null: it is not there, or `json` no object.
const JsonValue* member(const JsonValue& json, std::string_view name) {
  const auto* const object = std::get_if<JsonValue::Object>(&json.data);
  if (object == nullptr) return nullptr;
  const auto found = std::ranges::find(*object, name, &JsonMember::name);
  return found == object->end() ? nullptr : &found->value;
}

std::string text_of(const JsonValue& json, std::string_view name) {
  const JsonValue* const found = member(json, name);
  const auto* const text = found == nullptr ? nullptr : std::get_if<std::string>(&found->data);
  return text == nullptr ? "" : *text;
}

bool is_true(const JsonValue& json, std::string_view name) {
  const JsonValue* const found = member(json, name);
  const bool* const value = found == nullptr ? nullptr : std::get_if<bool>(&found->data);
  return value != nullptr && *value;
}

const JsonValue::Array& array_of(const JsonValue& json, std::string_view name) {
  static const JsonValue::Array kNone;
  const JsonValue* const found = member(json, name);
  const auto* const array = found == nullptr ? nullptr : std::get_if<JsonValue::Array>(&found->data);
  return array == nullptr ? kNone : *array;
}

std::int64_t number_of(const JsonValue& json, std::string_view name) {
  const JsonValue* const found = member(json, name);
  const auto* const number = found == nullptr ? nullptr : std::get_if<std::int64_t>(&found->data);
  return number == nullptr ? 0 : *number;
}

/// What children need one each of, or a name for.
struct Parts {
  std::string id;
  fs::path socket_directory;  ///< As the machine's process sees it.
  struct Drive {
    std::string id;
    fs::path overlay;
  };
  std::vector<Drive> drives;            ///< That the guest writes to.
  std::vector<std::string> interfaces;  ///< Those with a TAP.
  struct Channel {
    std::int64_t port = 0;
    fs::path socket;
  };
  std::vector<Channel> channels;  ///< That listen.
};

/// Where the machine's process made it. Error: the API's text is JSON, which could not name those of children beside it.
Result<fs::path> own_socket_of(const RunningMachine& machine) {
  std::error_code failure;
  fs::path socket = machine.own_socket.empty() ? fs::absolute(machine.socket, failure) : fs::path{machine.own_socket};
  if (failure)
    return fail(ErrorKind::System, "{}: the working directory has no path ({}); give an absolute path", machine.socket,
                errno_text(failure.value()));
  if (is_utf8(socket.native())) return socket;
  return fail(
      ErrorKind::InvalidArgument,
      "{}: children's sockets are beside it, and the API takes paths in UTF-8 alone; start the machine elsewhere",
      socket.native());
}

Result<Parts> parts_of(const ApiClient& client, const RunningMachine& machine) {
  const fs::path socket = TRY(own_socket_of(machine));
  auto info = client.send("GET", "/");
  if (!info) return propagate(info);
  auto config = client.send("GET", "/vm/config");
  if (!config) return propagate(config);
  auto json = parse_json(*config, "its configuration");
  if (!json) return propagate(json);
  Parts parts{.id = text_member(*info, "id"),
              .socket_directory = socket.parent_path(),
              .drives = {},
              .interfaces = {},
              .channels = {}};
  for (const JsonValue& drive : array_of(*json, "drives"))
    if (!is_true(drive, "is_read_only"))
      parts.drives.push_back({.id = text_of(drive, "drive_id"), .overlay = text_of(drive, "path_on_host")});
  for (const JsonValue& interface : array_of(*json, "network-interfaces"))
    if (!text_of(interface, "host_dev_name").empty()) parts.interfaces.push_back(text_of(interface, "iface_id"));
  for (const JsonValue& channel : array_of(*json, "channels"))
    if (is_true(channel, "listen"))
      parts.channels.push_back({.port = number_of(channel, "port"), .socket = text_of(channel, "uds_path")});
  return parts;
}

/// Of each interface as many TAPs as there are children.
Status check_taps(const RemoteBranch& branch, const Parts& parts) {
  for (const RemoteBranch::Tap& each : branch.taps)
    if (std::ranges::find(parts.interfaces, each.interface) == parts.interfaces.end())
      return fail(ErrorKind::InvalidArgument, "--tap {}={}: the machine has no network interface {}", each.interface,
                  each.tap, each.interface);
  for (const std::string& interface : parts.interfaces) {
    const auto given = std::ranges::count(branch.taps, interface, &RemoteBranch::Tap::interface);
    if (std::cmp_not_equal(given, branch.children))
      return fail(ErrorKind::InvalidArgument,
                  "--tap: network interface {} needs a TAP a child, {} in all, and has {}: give --tap {}=NAME for each",
                  interface, branch.children, given, interface);
  }
  return {};
}

/// Where a path leads the machine's process.
fs::path seen_by(const RunningMachine& machine, const fs::path& path) {
  if (machine.pid == 0) return path;
  return fs::path{"/proc"} / std::to_string(machine.pid) / (path.is_absolute() ? "root" : "cwd") / path.relative_path();
}

fs::path socket_of(const Parts& parts, const std::string& id) { return parts.socket_directory / (id + ".sock"); }

fs::path overlay_of(const Parts::Drive& drive, const std::string& id) {
  return drive.overlay.parent_path() / fmt::format("{}.{}.overlay", id, drive.id);
}

fs::path channel_of(const Parts::Channel& channel, const std::string& id) {
  return channel.socket.parent_path() / fmt::format("{}.{}.sock", id, channel.port);
}

/// Numbers whose machine runs, or has left a file, are left out.
std::vector<std::string> ids_of(const RemoteBranch& branch, const Parts& parts, const RunningMachine& machine,
                                const std::vector<RunningMachine>& running) {
  std::set<std::string> taken;
  for (const RunningMachine& each : running) taken.insert(each.id);
  const auto is_there = [&](const fs::path& path) {
    std::error_code none;
    return fs::exists(fs::symlink_status(seen_by(machine, path), none));
  };
  const std::string& name = branch.name.empty() ? parts.id : branch.name;
  std::vector<std::string> ids;
  for (unsigned number = 1; ids.size() < branch.children; ++number) {
    std::string id = fmt::format("{}-{}", name, number);
    if (taken.contains(id) || is_there(socket_of(parts, id)) ||
        std::ranges::any_of(parts.drives, [&](const Parts::Drive& drive) { return is_there(overlay_of(drive, id)); }) ||
        std::ranges::any_of(parts.channels,
                            [&](const Parts::Channel& channel) { return is_there(channel_of(channel, id)); }))
      continue;
    ids.push_back(std::move(id));
  }
  return ids;
}

void write_pairs(JsonWriter& json, std::string_view list, std::string_view first, std::string_view second,
                 const std::vector<std::pair<std::string, std::string>>& pairs) {
  if (pairs.empty()) return;
  json.key(list);
  json.begin_array();
  for (const auto& [one, other] : pairs) {
    json.begin_object();
    json.field(first, one);
    json.field(second, other);
    json.end_object();
  }
  json.end_array();
}

/// Those of the child with this number.
void write_taps(JsonWriter& json, const RemoteBranch& branch, const Parts& parts, std::size_t child) {
  if (parts.interfaces.empty()) return;
  json.key("network_overrides");
  json.begin_array();
  for (const std::string& interface : parts.interfaces) {
    std::size_t number = 0;
    for (const RemoteBranch::Tap& each : branch.taps) {
      if (each.interface != interface || number++ != child) continue;
      json.begin_object();
      json.field("iface_id", interface);
      json.field("host_dev_name", each.tap);
      if (!each.mac.empty()) json.field("guest_mac", each.mac);
      json.end_object();
    }
  }
  json.end_array();
}

void write_channels(JsonWriter& json, const Parts& parts, const std::string& id) {
  if (parts.channels.empty()) return;
  json.key("channel_overrides");
  json.begin_array();
  for (const Parts::Channel& channel : parts.channels) {
    json.begin_object();
    json.field("port", channel.port);
    json.field("uds_path", channel_of(channel, id).string());
    json.end_object();
  }
  json.end_array();
}

std::string request_for(const RemoteBranch& branch, const Parts& parts, const std::vector<std::string>& ids) {
  using Pairs = std::vector<std::pair<std::string, std::string>>;
  JsonWriter json;
  json.begin_object();
  json.key("children");
  json.begin_array();
  for (std::size_t child = 0; child < ids.size(); ++child) {
    json.begin_object();
    json.field("id", ids[child]);
    json.field("api_socket", socket_of(parts, ids[child]).string());
    write_taps(json, branch, parts, child);
    Pairs overlays;
    for (const Parts::Drive& drive : parts.drives) overlays.emplace_back(drive.id, overlay_of(drive, ids[child]));
    write_pairs(json, "drive_overrides", "drive_id", "path_on_host", overlays);
    write_channels(json, parts, ids[child]);
    json.end_object();
  }
  json.end_array();
  // It outlives the children that it is made for.
  const auto moment = std::chrono::system_clock::now().time_since_epoch() / std::chrono::milliseconds{1};
  Pairs frozen;
  for (const Parts::Drive& drive : parts.drives)
    frozen.emplace_back(drive.id,
                        drive.overlay.parent_path() / fmt::format("{}.{}.{}.frozen", parts.id, drive.id, moment));
  write_pairs(json, "frozen_drives", "drive_id", "path_on_host", frozen);
  json.end_object();
  return std::move(json).take();
}

/// A line a child. Error: of the first that is not up.
Status print_children(const std::string& answer, std::FILE* out) {
  auto json = parse_json(answer, "the answer");
  if (!json) return propagate(json);
  Status all;
  for (const JsonValue& child : array_of(*json, "children")) {
    const std::string id = printable(text_of(child, "id"), kLongestShownName);
    if (const std::string error = text_of(child, "error"); !error.empty()) {
      if (all) all = fail(ErrorKind::State, "{} did not come up: {}", id, printable_lines(error));
      continue;
    }
    fmt::print(out, "{:<24} {:>8} {}\n", id, number_of(child, "pid"),
               printable(text_of(child, "api_socket"), kLongestShownName));
  }
  if (std::fflush(out) == EOF) return fail_errno(ErrorKind::System, "cannot write the answer");
  return all;
}

}  // namespace

Status branch_machine(const RemoteBranch& branch, std::FILE* out) {
  const auto running = running_machines();
  const auto machine = find_machine(branch.machine, running);
  if (!machine) return std::unexpected(machine.error());
  const ApiClient client{machine->socket, {.process = machine->pid}};
  const auto parts = parts_of(client, *machine);
  if (!parts) return std::unexpected(parts.error());
  if (auto checked = check_taps(branch, *parts); !checked) return checked;
  const auto answer =
      client.send("PUT", "/vm/branch", request_for(branch, *parts, ids_of(branch, *parts, *machine, running)));
  if (!answer) return std::unexpected(answer.error());
  return print_children(*answer, out);
}

}  // namespace mayfly
