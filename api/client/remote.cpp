#include "api/client/remote.h"

#include "api/client/api_client.h"
#include "api/client/running.h"
#include "api/json_reader.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/owned_fd.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>

#include <fmt/format.h>

namespace mayfly {
namespace {

Result<ApiClient> reach(const std::string& machine) {
  auto socket = socket_of(machine, running_machines());
  if (!socket) return propagate(socket);
  return ApiClient{std::move(*socket)};
}

Status print(const std::string& text, std::FILE* out) {
  if (std::fputs(text.c_str(), out) == EOF || std::fflush(out) == EOF)
    return fail_errno(ErrorKind::System, "cannot write the answer");
  return {};
}

/// A text field of an object of the API's.
std::string text_in(const std::string& body, std::string_view name) {
  const auto json = parse_json(body, "the answer");
  if (!json) return "";
  const auto* object = std::get_if<JsonValue::Object>(&json->data);
  if (object == nullptr) return "";
  for (const JsonMember& member : *object)
    if (member.name == name)
      if (const auto* text = std::get_if<std::string>(&member.value.data)) return *text;
  return "";
}

Result<std::string> state_of(ApiClient& client) {
  auto info = client.send("GET", "/");
  if (!info) return info;
  return text_in(*info, "state");
}

Status set_state(ApiClient& client, const char* state) {
  JsonWriter json;
  json.begin_object();
  json.field("state", state);
  json.end_object();
  auto answer = client.send("PATCH", "/vm", std::move(json).take());
  if (!answer) return propagate(answer);
  return {};
}

Status set_state(const std::string& machine, const char* state) {
  auto client = reach(machine);
  if (!client) return propagate(client);
  return set_state(*client, state);
}

/// The process that listens at a socket, to wait for or to end.
Result<OwnedFd> process_behind(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const OwnedFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  ucred owner{};
  socklen_t length = sizeof owner;
  if (!socket || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &owner, &length) != 0)
    return fail_errno(ErrorKind::System, "cannot learn whose socket {} is", path);
  OwnedFd process{static_cast<int>(::syscall(SYS_pidfd_open, owner.pid, 0))};
  if (!process) return fail_errno(ErrorKind::System, "cannot watch process {}", owner.pid);
  return process;
}

}  // namespace

Status list_machines(std::FILE* out) {
  std::string text = fmt::format("{:<24} {:>8} {:<12} {}\n", "ID", "PID", "STATE", "SOCKET");
  for (const RunningMachine& machine : running_machines()) {
    std::string state = "no API";
    if (!machine.socket.empty()) {
      ApiClient client{machine.socket};
      state = state_of(client).value_or("unreachable");
    }
    text += fmt::format("{:<24} {:>8} {:<12} {}\n", machine.id, machine.pid, state,
                        machine.socket.empty() ? "-" : machine.socket);
  }
  return print(text, out);
}

Status pause_machine(const std::string& machine) { return set_state(machine, "Paused"); }

Status resume_machine(const std::string& machine) { return set_state(machine, "Resumed"); }

Status snapshot_machine(const RemoteSnapshot& snapshot) {
  auto client = reach(snapshot.machine);
  if (!client) return propagate(client);
  auto state = state_of(*client);
  if (!state) return propagate(state);
  const bool runs = *state == "Running";
  if (runs)
    if (auto paused = set_state(*client, "Paused"); !paused) return paused;
  JsonWriter json;
  json.begin_object();
  json.field("snapshot_type", snapshot.diff ? "Diff" : "Full");
  // The monitor may live in another directory.
  json.field("snapshot_path", std::filesystem::absolute(snapshot.state).string());
  json.field("mem_file_path", std::filesystem::absolute(snapshot.memory).string());
  json.end_object();
  auto taken = client->send("PUT", "/snapshot/create", std::move(json).take());
  Status resumed;
  if (runs) resumed = set_state(*client, "Resumed");
  if (!taken) return propagate(taken);
  return resumed;
}

Status stop_machine(const RemoteStop& stop) {
  auto client = reach(stop.machine);
  if (!client) return propagate(client);
  auto process = process_behind(client->socket_path());
  if (!process) return propagate(process);
  if (stop.now) {
    if (::syscall(SYS_pidfd_send_signal, process->get(), SIGTERM, nullptr, 0) != 0)
      return fail_errno(ErrorKind::Permission, "cannot end the monitor of {}", stop.machine);
  } else if (auto pressed = client->send("PUT", "/actions", R"({"action_type": "SendCtrlAltDel"})"); !pressed) {
    return propagate(pressed, "the guest was not asked (--now ends it without)");
  }
  pollfd ended{.fd = process->get(), .events = POLLIN, .revents = 0};
  if (::poll(&ended, 1, static_cast<int>(std::min(stop.timeout_s, 86'400U) * 1000)) == 1) return {};
  return fail(ErrorKind::State, "{} has not stopped within {} s; --now ends it without asking its guest", stop.machine,
              stop.timeout_s);
}

Status print_config(const std::string& machine, std::FILE* out) {
  auto client = reach(machine);
  if (!client) return propagate(client);
  auto config = client->send("GET", "/vm/config");
  if (!config) return propagate(config);
  return print(*config + '\n', out);
}

Status print_metrics(const std::string& machine, std::FILE* out) {
  auto client = reach(machine);
  if (!client) return propagate(client);
  auto metrics = client->send("GET", "/metrics/prometheus");
  if (!metrics) return propagate(metrics);
  return print(*metrics, out);
}

}  // namespace mayfly
