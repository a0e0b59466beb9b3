#include "tests/host-agent/clone_keeper.h"

#include "vmm/base/try.h"

#include <utility>

namespace mayfly::host_agent {

CloneKeeper::CloneKeeper(ClonePool& pool, KeeperOptions options, Use use)
    : pool_(pool), options_(std::move(options)), use_(use) {
  for (unsigned i = 0; i < options_.size; ++i) {
    Seat& seat = seats_.emplace_back();
    seat.thread = std::thread{[this, &seat] { keep_filled(seat.bell); }};
  }
}

CloneKeeper::~CloneKeeper() {
  for (Seat& seat : seats_) seat.thread.join();
}

std::optional<CloneNetwork> CloneKeeper::enter_network(const Bell& bell) {
  while (!pool_.is_stopping()) {
    auto network = CloneNetwork::enter(1);
    if (network) return std::move(*network);
    report_no_clone(network.error());
    bell.wait({}, kKeeperPause);
  }
  return std::nullopt;
}

void CloneKeeper::keep_filled(const Bell& bell) {
  ClonePool::Place& place = pool_.add(bell);
  const auto network = enter_network(bell);
  std::optional<MonitorProcess> used;  // which goes back
  while (!pool_.is_stopping()) {
    const bool goes_back = used.has_value();
    auto clone = goes_back ? revert(std::move(*used), *network) : prepare(*network);
    used.reset();
    if (!clone) {
      if (!pool_.is_stopping()) report_no_clone(clone.error());
      if (!goes_back) bell.wait({}, kKeeperPause);
      continue;
    }
    ClonePool::Returned back = pool_.lend(place, std::move(*clone));
    if (use_ == Use::Reverts && back.was_used && !back.clone.monitor.has_ended())
      used.emplace(std::move(back.clone.monitor));
    else
      back.clone.monitor.end();
  }
}

Result<Clone> CloneKeeper::revert(MonitorProcess monitor, const CloneNetwork& network) {
  TRY(monitor.api().request("PUT", "/snapshot/revert", R"({"clock_realtime": true})"));
  TRY(tell_who_it_is(monitor, pool_.next_id()));
  TRY(monitor.api().request("PATCH", "/vm", R"({"state": "Resumed"})"));
  auto socket = TRY(network.socket(0));
  return make_ready(std::move(monitor), std::move(socket), pool_);
}

Result<Clone> CloneKeeper::prepare(const CloneNetwork& network) {
  const std::string id = pool_.next_id();
  auto monitor = TRY(MonitorProcess::start({.binary = options_.monitor, .directory = options_.directory, .id = id}));
  TRY(tell_who_it_is(monitor, id));
  TRY(network.await_unused(0));
  TRY(monitor.api().request("PUT", "/snapshot/load",
                            options_.snapshot.load_request({.resumes = true, .revertible = use_ == Use::Reverts})));
  auto socket = TRY(network.socket(0));
  return make_ready(std::move(monitor), std::move(socket), pool_);
}

}  // namespace mayfly::host_agent
