#include "api/client/remote.h"

#include "api/client/api_client.h"
#include "api/client/running.h"
#include "vmm/base/json_writer.h"

#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// A monitor that is stopped or stuck is not to keep a list of machines waiting.
constexpr std::chrono::seconds kListPatience{2};

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

Result<std::string> state_of(const ApiClient& client) {
  auto info = client.send("GET", "/");
  if (!info) return info;
  return text_member(*info, "state");
}

Status set_state(const ApiClient& client, const char* state) {
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

/// SIGINT and the like wait until the end of this object's life.
class HeldSignals {
 public:
  HeldSignals() {
    sigset_t held;
    ::sigemptyset(&held);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&held, number);
    ::pthread_sigmask(SIG_BLOCK, &held, &before_);
  }
  ~HeldSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

 private:
  sigset_t before_{};
};

std::string snapshot_request(const RemoteSnapshot& snapshot) {
  JsonWriter json;
  json.begin_object();
  json.field("snapshot_type", snapshot.diff ? "Diff" : "Full");
  // The monitor may live in another directory.
  json.field("snapshot_path", std::filesystem::absolute(snapshot.state).string());
  json.field("mem_file_path", std::filesystem::absolute(snapshot.memory).string());
  json.end_object();
  return std::move(json).take();
}

}  // namespace

Status list_machines(std::FILE* out) {
  std::string text = fmt::format("{:<24} {:>8} {:<12} {}\n", "ID", "PID", "STATE", "SOCKET");
  for (const RunningMachine& machine : running_machines()) {
    std::string state = "no API";
    if (!machine.socket.empty()) {
      const ApiClient client{machine.socket, kListPatience};
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
  const std::string request = snapshot_request(snapshot);
  if (*state != "Running") {
    auto taken = client->send("PUT", "/snapshot/create", request);
    return taken ? Status{} : propagate(taken);
  }
  const HeldSignals until_it_goes_on;
  if (auto paused = set_state(*client, "Paused"); !paused) return paused;
  auto taken = client->send("PUT", "/snapshot/create", request);
  auto resumed = set_state(*client, "Resumed");
  if (!resumed)
    return fail(resumed.error().kind, "{}{}; mayfly resume lets it go on", taken ? "" : taken.error().message + "; ",
                resumed.error().message);
  return taken ? Status{} : propagate(taken);
}

Status stop_machine(const RemoteStop& stop) {
  auto client = reach(stop.machine);
  if (!client) return propagate(client);
  auto process = client->process();
  if (!process) return propagate(process);
  if (stop.now) {
    if (::syscall(SYS_pidfd_send_signal, process->get(), SIGTERM, nullptr, 0) != 0)
      return fail_errno(ErrorKind::Permission, "cannot end the monitor of {}", stop.machine);
  } else if (auto pressed = client->send("PUT", "/actions", R"({"action_type": "SendCtrlAltDel"})"); !pressed) {
    return propagate(pressed, "the guest was not asked (--now ends it without)");
  }
  pollfd ended{.fd = process->get(), .events = POLLIN, .revents = 0};
  if (::poll(&ended, 1, static_cast<int>(std::min(stop.timeout_s, 86'400U) * 1000)) == 1) return {};
  return fail(ErrorKind::State, "{} has not ended within {} s{}", stop.machine, stop.timeout_s,
              stop.now ? "; its process (mayfly ps) may be suspended" : "; --now ends it without asking its guest");
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
