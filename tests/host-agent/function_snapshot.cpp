#include "tests/host-agent/function_snapshot.h"

#include "tests/host-agent/clone_network.h"
#include "tests/host-agent/hand_over.h"
#include "tests/host-agent/monitor_process.h"
#include "vmm/base/json_writer.h"

#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace mayfly::host_agent {
namespace {

using std::chrono_literals::operator""ms;

struct Request {
  std::string_view method;
  std::string_view path;
  std::string body;
};

/// An object of texts; those that are empty are left out.
std::string texts(std::initializer_list<std::pair<std::string_view, std::string_view>> all) {
  JsonWriter json;
  json.begin_object();
  for (const auto& [name, text] : all)
    if (!text.empty()) json.field(name, text);
  json.end_object();
  return std::move(json).take();
}

Status request_all(const MonitorProcess& monitor, std::initializer_list<Request> requests) {
  for (const Request& each : requests)
    if (auto done = monitor.request(each.method, each.path, each.body); !done)
      return propagate(done, fmt::format("{} {}", each.method, each.path));
  return {};
}

Status boot(const MonitorProcess& monitor, const Function& function) {
  return request_all(monitor, {{"PUT", "/machine-config",
                                fmt::format(R"({{"vcpu_count": 1, "mem_size_mib": {}}})", function.memory_mib)},
                               {"PUT", "/boot-source",
                                texts({{"kernel_image_path", function.kernel},
                                       {"initrd_path", function.initrd},
                                       {"boot_args", function.boot_args}})},
                               {"PUT", "/network-interfaces/eth0",
                                texts({{"iface_id", "eth0"}, {"host_dev_name", kTapName}, {"guest_mac", kGuestMac}})},
                               {"PUT", "/mmds/config", R"({"version": "V2", "network_interfaces": ["eth0"]})"},
                               {"PUT", "/actions", R"({"action_type": "InstanceStart"})"}});
}

/// Tries until the function takes a connection, and waits for its answer. What is said to a guest before it has its
/// network gets lost, hence the short first tries; each is twice the one before, for a guest that is slow.
Status await_answer(const MonitorProcess& monitor, const Function& function, const SnapshotOptions& options) {
  const std::string request = http_request("GET " + function.ready_path + " HTTP/1.1", "");
  auto patience = 25ms;
  while (time_left(options.deadline) > 0ms) {
    const auto connection = CloneNetwork::socket();
    if (!connection) return std::unexpected(connection.error());
    const auto answer =
        hand_over(request, {.connection = connection->get(),
                            .machine = monitor.pidfd(),
                            .asker = options.stop,
                            .deadline = options.deadline,
                            .connected_by = std::min(Deadline::clock::now() + patience, options.deadline)});
    if (answer) return {};
    if (answer.error() == Silence::Died) return fail(ErrorKind::Guest, "the machine ended before it answered");
    if (answer.error() == Silence::Unasked) return fail(ErrorKind::State, "told to stop");
    if (answer.error() == Silence::Late) patience = std::min(2 * patience, std::chrono::milliseconds{1000});
    // A guest that has its network but does not listen yet refuses at once.
    if (answer.error() == Silence::Broken) (void)is_ready_by(Deadline::clock::now() + 5ms, monitor.pidfd(), POLLIN);
  }
  return fail(ErrorKind::Guest, "the function has not answered in time");
}

Result<FunctionSnapshot> boot_and_freeze(const Function& function, const SnapshotOptions& options) {
  auto network = CloneNetwork::enter();
  if (!network) return propagate(network);
  const auto monitor = MonitorProcess::start(
      {.binary = options.monitor, .directory = options.directory, .id = "template", .console = STDERR_FILENO});
  if (!monitor) return std::unexpected(monitor.error());
  if (auto booted = boot(*monitor, function); !booted) return propagate(booted);
  if (auto ready = await_answer(*monitor, function, options); !ready) return propagate(ready);
  FunctionSnapshot snapshot{.state = options.directory + "/state", .memory = options.directory + "/memory"};
  auto taken = request_all(
      *monitor,
      {{"PATCH", "/vm", R"({"state": "Paused"})"},
       {"PUT", "/snapshot/create", texts({{"snapshot_path", snapshot.state}, {"mem_file_path", snapshot.memory}})}});
  if (!taken) return propagate(taken);
  return snapshot;
}

}  // namespace

std::string FunctionSnapshot::load_request(bool revertible) const {
  JsonWriter json;
  json.begin_object();
  json.field("snapshot_path", state);
  json.key("mem_backend");
  json.begin_object();
  json.field("backend_type", "File");
  json.field("backend_path", memory);
  json.end_object();
  json.field("clock_realtime", true);
  json.field("resume_vm", true);
  json.field("revertible", revertible);
  json.end_object();
  return std::move(json).take();
}

Result<FunctionSnapshot> make_snapshot(const Function& function, const SnapshotOptions& options) {
  Result<FunctionSnapshot> snapshot;
  std::thread{[&] { snapshot = boot_and_freeze(function, options); }}.join();
  return snapshot;
}

}  // namespace mayfly::host_agent
