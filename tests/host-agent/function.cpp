#include "tests/host-agent/function.h"

#include "tests/host-agent/hand_over.h"

#include <unistd.h>

#include <algorithm>
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
    if (auto done = monitor.api().request(each.method, each.path, each.body); !done)
      return propagate(done, fmt::format("{} {}", each.method, each.path));
  return {};
}

Status boot(const MonitorProcess& monitor, const Function& function) {
  return request_all(
      monitor,
      {{"PUT", "/machine-config", fmt::format(R"({{"vcpu_count": 1, "mem_size_mib": {}}})", function.memory_mib)},
       {"PUT", "/boot-source",
        texts({{"kernel_image_path", function.kernel},
               {"initrd_path", function.initrd},
               {"boot_args", function.boot_args}})},
       {"PUT", "/network-interfaces/eth0",
        texts({{"iface_id", kGuestInterface}, {"host_dev_name", tap_name(0)}, {"guest_mac", kGuestMac}})},
       {"PUT", "/mmds/config", R"({"version": "V2", "network_interfaces": ["eth0"]})"},
       {"PUT", "/actions", R"({"action_type": "InstanceStart"})"}});
}

/// Tries until the function takes a connection, and waits for its answer. What is said to a guest before it has its
/// network gets lost, hence the short first tries; each is twice the one before, for a guest that is slow.
Status await_answer(const MonitorProcess& monitor, const Function& function, const BootOptions& options,
                    const CloneNetwork& network) {
  const std::string request = http_request("GET " + function.ready_path + " HTTP/1.1", "");
  auto patience = 25ms;
  while (time_left(options.deadline) > 0ms) {
    const auto connection = network.socket(0);
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

}  // namespace

void write_metadata(JsonWriter& json, const std::string& id) {
  json.begin_object();
  json.key("latest");
  json.begin_object();
  json.key("meta-data");
  json.begin_object();
  json.field("instance-id", id);
  json.end_object();
  json.end_object();
  json.end_object();
}

Status tell_who_it_is(const MonitorProcess& monitor, const std::string& id) {
  JsonWriter json;
  write_metadata(json, id);
  return monitor.api().request("PUT", "/mmds", std::move(json).take());
}

Result<MonitorProcess> boot_function(const Function& function, const BootOptions& options,
                                     const CloneNetwork& network) {
  auto monitor = MonitorProcess::start({.binary = options.monitor,
                                        .directory = options.directory,
                                        .id = options.id,
                                        .more = options.more,
                                        .console = STDERR_FILENO});
  if (!monitor) return propagate(monitor);
  if (auto told = tell_who_it_is(*monitor, options.id); !told) return propagate(told);
  if (auto booted = boot(*monitor, function); !booted) return propagate(booted);
  if (auto ready = await_answer(*monitor, function, options, network); !ready) return propagate(ready);
  return monitor;
}

}  // namespace mayfly::host_agent
