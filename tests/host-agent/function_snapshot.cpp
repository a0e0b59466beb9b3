#include "tests/host-agent/function_snapshot.h"

#include "tests/host-agent/clone_network.h"
#include "vmm/base/json_writer.h"

#include <thread>
#include <utility>

namespace mayfly::host_agent {
namespace {

Result<FunctionSnapshot> boot_and_freeze(const Function& function, const BootOptions& options) {
  auto network = CloneNetwork::enter(1);
  if (!network) return propagate(network);
  const auto monitor = boot_function(function, options, *network);
  if (!monitor) return std::unexpected(monitor.error());
  FunctionSnapshot snapshot = FunctionSnapshot::in(options.directory);
  Status taken = monitor->api().request("PATCH", "/vm", R"({"state": "Paused"})");
  if (taken)
    taken = monitor->api().request("PUT", "/snapshot/create", snapshot.create_request(false),
                                   Deadline::clock::now() + kSnapshotPatience);
  if (!taken) return propagate(taken);
  return snapshot;
}

}  // namespace

FunctionSnapshot FunctionSnapshot::in(const std::string& directory) {
  return {.state = directory + "/state", .memory = directory + "/memory"};
}

std::string FunctionSnapshot::create_request(bool live) const {
  JsonWriter json;
  json.begin_object();
  json.field("snapshot_path", state);
  json.field("mem_file_path", memory);
  json.field("live", live);
  json.end_object();
  return std::move(json).take();
}

std::string FunctionSnapshot::load_request(const Load& how) const {
  JsonWriter json;
  json.begin_object();
  json.field("snapshot_path", state);
  json.key("mem_backend");
  json.begin_object();
  json.field("backend_type", "File");
  json.field("backend_path", memory);
  json.end_object();
  json.field("clock_realtime", true);
  json.field("resume_vm", how.resumes);
  json.field("revertible", how.revertible);
  json.end_object();
  return std::move(json).take();
}

Result<FunctionSnapshot> make_snapshot(const Function& function, const BootOptions& options) {
  Result<FunctionSnapshot> snapshot;
  std::thread{[&] { snapshot = boot_and_freeze(function, options); }}.join();
  return snapshot;
}

}  // namespace mayfly::host_agent
