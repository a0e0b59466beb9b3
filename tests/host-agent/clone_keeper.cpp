#include "tests/host-agent/clone_keeper.h"

#include <cstdio>
#include <utility>

namespace mayfly::host_agent {

void report_no_clone(const Error& error) { std::fprintf(stderr, "host_agent: no clone: %s\n", error.message.c_str()); }

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
  std::optional<Clone> again;
  while (!pool_.is_stopping()) {
    auto clone = again ? Result<Clone>{std::move(*again)} : prepare(*network);
    again.reset();
    if (!clone) {
      report_no_clone(clone.error());
      bell.wait({}, kKeeperPause);
      continue;
    }
    ClonePool::Returned back = pool_.lend(place, std::move(*clone));
    if (auto next = revert(back, *network))
      again.emplace(std::move(*next));
    else
      back.clone.monitor.end();
  }
}

std::optional<Clone> CloneKeeper::revert(ClonePool::Returned& back, const CloneNetwork& network) {
  const MonitorProcess& monitor = back.clone.monitor;
  if (use_ != Use::Reverts || !back.was_used || pool_.is_stopping() || monitor.has_ended()) return std::nullopt;
  auto connection = network.socket(0);
  Status done = connection ? Status{} : propagate(connection);
  if (done) done = monitor.api().request("PUT", "/snapshot/revert", R"({"clock_realtime": true})");
  if (done) done = tell_who_it_is(monitor, pool_.next_id());
  if (!done) {
    report_no_clone(done.error());
    return std::nullopt;
  }
  return Clone{
      .monitor = std::move(back.clone.monitor), .connection = std::move(*connection), .start = Clone::resume()};
}

Result<Clone> CloneKeeper::prepare(const CloneNetwork& network) {
  const std::string id = pool_.next_id();
  auto monitor = MonitorProcess::start({.binary = options_.monitor, .directory = options_.directory, .id = id});
  if (!monitor) return propagate(monitor);
  if (auto told = tell_who_it_is(*monitor, id); !told) return propagate(told);
  auto connection = network.socket(0);
  if (!connection) return propagate(connection);
  if (auto unused = network.await_unused(0); !unused) return propagate(unused);
  return Clone{.monitor = std::move(*monitor),
               .connection = std::move(*connection),
               .start = Clone::Call{
                   .method = "PUT",
                   .path = "/snapshot/load",
                   .body = options_.snapshot.load_request({.resumes = true, .revertible = use_ == Use::Reverts})}};
}

}  // namespace mayfly::host_agent
