#include "tests/host-agent/clone_keeper.h"

#include "tests/host-agent/hand_over.h"
#include "vmm/base/try.h"

#include <cstdio>
#include <utility>

namespace mayfly::host_agent {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

/// More than a guest that runs on a busy host needs to accept a connection.
constexpr auto kConnectPatience = 10s;

Clone paused(MonitorProcess monitor, OwnedFd connection) {
  return {.monitor = std::move(monitor),
          .connection = std::move(connection),
          .start = Clone::resume(),
          .is_connected = true};
}

}  // namespace

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
    auto clone = again ? Result<Clone>{std::move(*again)} : prepare(*network, bell);
    again.reset();
    if (!clone) {
      if (pool_.is_stopping()) return;
      report_no_clone(clone.error());
      bell.wait({}, kKeeperPause);
      continue;
    }
    ClonePool::Returned back = pool_.lend(place, std::move(*clone));
    if (auto next = revert(back, *network, bell))
      again.emplace(std::move(*next));
    else
      back.clone.monitor.end();
  }
}

std::optional<Clone> CloneKeeper::revert(ClonePool::Returned& back, const CloneNetwork& network, const Bell& bell) {
  const MonitorProcess& monitor = back.clone.monitor;
  if (use_ != Use::Reverts || !back.was_used || pool_.is_stopping() || monitor.has_ended()) return std::nullopt;
  Status done = monitor.api().request("PUT", "/snapshot/revert", R"({"clock_realtime": true})");
  if (done) done = tell_who_it_is(monitor, pool_.next_id());
  if (done) done = monitor.api().request("PATCH", "/vm", R"({"state": "Resumed"})");
  auto connection = done ? connect(monitor, network, bell) : propagate(done);
  if (connection) return paused(std::move(back.clone.monitor), std::move(*connection));
  if (!pool_.is_stopping()) report_no_clone(connection.error());
  return std::nullopt;
}

Result<Clone> CloneKeeper::prepare(const CloneNetwork& network, const Bell& bell) {
  const std::string id = pool_.next_id();
  auto monitor = TRY(MonitorProcess::start({.binary = options_.monitor, .directory = options_.directory, .id = id}));
  TRY(tell_who_it_is(monitor, id));
  TRY(network.await_unused(0));
  TRY(monitor.api().request("PUT", "/snapshot/load",
                            options_.snapshot.load_request({.resumes = true, .revertible = use_ == Use::Reverts})));
  auto connection = TRY(connect(monitor, network, bell));
  return paused(std::move(monitor), std::move(connection));
}

Result<OwnedFd> CloneKeeper::connect(const MonitorProcess& monitor, const CloneNetwork& network,
                                     const Bell& bell) const {
  auto connection = TRY(network.socket(0));
  bell.wait({}, 0ms);  // so that it rings for nothing but the pool's end
  if (pool_.is_stopping()) return fail(ErrorKind::State, "the agent ends");
  const auto connected = connect_to_function({.connection = connection.get(),
                                              .machine = monitor.pidfd(),
                                              .asker = bell.ringing(),
                                              .deadline = Deadline::clock::now() + kConnectPatience});
  if (!connected) return fail(ErrorKind::Guest, "the function of a clone does not accept a connection");
  TRY(monitor.api().request("PATCH", "/vm", R"({"state": "Paused"})"));
  return connection;
}

}  // namespace mayfly::host_agent
