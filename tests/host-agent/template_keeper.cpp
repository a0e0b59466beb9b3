#include "tests/host-agent/template_keeper.h"

#include "rootfs-tools/agent/host/agent_client.h"
#include "rootfs-tools/agent/host/place.h"
#include "tests/host-agent/function.h"
#include "vmm/base/try.h"

#include <poll.h>

#include <filesystem>
#include <utility>

#include <fmt/format.h>

namespace mayfly::host_agent {

TemplateKeeper::TemplateKeeper(ClonePool& pool, Options options) : pool_(pool), options_(std::move(options)) {
  for (unsigned i = 0; i < options_.size; ++i) {
    Seat& seat = seats_.emplace_back();
    seat.thread = std::thread{[this, &seat] { keep_filled(seat.bell); }};
  }
}

TemplateKeeper::~TemplateKeeper() {
  for (Seat& seat : seats_) seat.thread.join();
}

bool TemplateKeeper::is_over() const {
  pollfd stop{.fd = options_.stop, .events = POLLIN, .revents = 0};
  return pool_.is_stopping() || ::poll(&stop, 1, 0) > 0;
}

bool TemplateKeeper::note_first(const Status& status) {
  if (knows_first_.exchange(true)) return false;
  first_.set_value(status);
  return true;
}

void TemplateKeeper::keep_filled(const Bell& bell) {
  ClonePool::Place& place = pool_.add(bell);
  while (!pool_.is_stopping()) {
    auto made = make();
    if (!made) {
      const bool is_told = note_first(std::unexpected(made.error()));
      if (is_over()) return;
      if (!is_told) report_no_clone(made.error());
      bell.wait({}, kKeeperPause);
      continue;
    }
    note_first({});
    // Killed when it is back: nothing that it has is wanted any more.
    (void)pool_.lend(place, std::move(made->clone));
  }
}

Result<TemplateKeeper::Made> TemplateKeeper::make() const {
  auto directory = TRY(WorkDirectory::create(options_.directory, "clone"));
  const std::string id = pool_.next_id();
  auto monitor = TRY(MonitorProcess::start({.binary = options_.monitor, .directory = directory.path(), .id = id}));
  TRY(tell_who_it_is(monitor, id));
  const clones::ClonePlaces places{.files = std::filesystem::absolute(options_.from.directory),
                                   .own = directory.path()};
  TRY(monitor.api().request("PUT", "/snapshot/load", clones::load_request(options_.from, places)));
  auto connection = connect(monitor, directory.path());
  if (!connection)
    return propagate(connection,
                     fmt::format("port {} of a clone of {}", options_.from.ready_port, options_.from.directory));
  TRY(monitor.api().request("PATCH", "/vm", R"({"state": "Paused"})"));
  return Made{.directory = std::move(directory),
              .clone = {.monitor = std::move(monitor),
                        .connection = std::move(*connection),
                        .start = Clone::resume(),
                        .is_connected = true}};
}

Result<OwnedFd> TemplateKeeper::connect(const MonitorProcess& monitor, const std::string& directory) const {
  const agent::AgentClient agent{
      directory + '/' + agent::kAgentSocket,
      {.patience = options_.patience, .process = monitor.api().process(), .cancel = options_.stop}};
  auto connected = TRY(agent.connect(options_.from.ready_port, options_.patience));
  if (!connected.first.empty())
    return fail(ErrorKind::Guest, "the function speaks before it is asked, so not HTTP; see --ready-port of the build");
  return std::move(connected.socket);
}

}  // namespace mayfly::host_agent
