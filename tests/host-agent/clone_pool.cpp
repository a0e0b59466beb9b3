#include "tests/host-agent/clone_pool.h"

#include "tests/host-agent/clone_network.h"

#include <chrono>
#include <cstdio>

namespace mayfly::host_agent {
namespace {

/// After a failure: what it lacks may come back, but not in an instant.
constexpr std::chrono::milliseconds kPause{200};

void report(const Error& error) { std::fprintf(stderr, "host_agent: no clone: %s\n", error.message.c_str()); }

}  // namespace

ClonePool::Lease::~Lease() {
  if (place_ != nullptr) pool_.give_back(*place_);
}

Status ClonePool::Lease::load(Deadline deadline) const {
  Clone& clone = *place_->clone;
  if (clone.is_loaded) return clone.monitor.request("PATCH", "/vm", R"({"state": "Resumed"})", deadline);
  auto loaded = clone.monitor.request("PUT", "/snapshot/load", pool_.load_request_, deadline);
  clone.is_loaded = loaded.has_value();
  return loaded;
}

int ClonePool::Lease::connection() const { return place_->clone->connection.get(); }
int ClonePool::Lease::pidfd() const { return place_->clone->monitor.pidfd(); }

ClonePool::ClonePool(Options options) : options_(std::move(options)) {
  for (unsigned i = 0; i < options_.size; ++i) {
    Place& place = places_.emplace_back();
    place.keeper = std::thread{[this, &place] { keep_filled(place); }};
  }
}

ClonePool::~ClonePool() {
  stop();
  for (Place& place : places_) place.keeper.join();
}

void ClonePool::stop() {
  const std::scoped_lock lock{mutex_};
  stopping_ = true;
  for (Place& place : places_) {
    if (place.clone) place.clone->monitor.kill();
    place.changed.notify_all();
  }
  available_.notify_all();
}

std::optional<ClonePool::Lease> ClonePool::take(Deadline deadline) {
  std::unique_lock lock{mutex_};
  if (ready_.empty() && waiting_ >= places_.size()) return std::nullopt;
  for (;;) {
    ++waiting_;
    const bool in_time = available_.wait_until(lock, deadline, [&] { return stopping_ || !ready_.empty(); });
    --waiting_;
    if (!in_time || stopping_) return std::nullopt;
    Place& place = *ready_.front();
    ready_.pop_front();
    place.leased = !place.clone->monitor.has_ended();
    if (place.leased) return Lease{*this, place};
    place.spent = true;  // somebody has killed it while it stood ready
    place.changed.notify_all();
  }
}

void ClonePool::give_back(Place& place) {
  const std::scoped_lock lock{mutex_};
  place.leased = false;
  place.spent = true;
  place.changed.notify_all();
}

ClonePool::State ClonePool::state() const {
  const std::scoped_lock lock{mutex_};
  State state{.ready = static_cast<unsigned>(ready_.size()), .waiting = waiting_};
  for (const Place& place : places_) state.busy += place.leased ? 1 : 0;
  return state;
}

void ClonePool::keep_filled(Place& place) {
  auto network = CloneNetwork::enter();
  for (; !network; network = CloneNetwork::enter()) {
    report(network.error());
    std::unique_lock lock{mutex_};
    if (place.changed.wait_for(lock, kPause, [&] { return stopping_.load(); })) return;
  }
  std::optional<Clone> again;
  while (!stopping_) {
    auto clone = again ? Result<Clone>{std::move(*again)} : prepare();
    again.reset();
    if (!clone) report(clone.error());
    {
      std::unique_lock lock{mutex_};
      if (!clone) place.changed.wait_for(lock, kPause, [&] { return stopping_.load(); });
      if (stopping_) return;
      if (!clone) continue;
      place.clone.emplace(std::move(*clone));
    }
    Clone spent = offer(place);
    if (revert(spent))
      again.emplace(std::move(spent));
    else
      spent.monitor.end();
  }
}

std::string ClonePool::next_id() {
  const std::scoped_lock lock{mutex_};
  return fmt::format("clone-{}", ++made_);
}

namespace {

/// A guest asks its metadata who it is.
Status tell_who_it_is(const MonitorProcess& monitor, const std::string& id) {
  return monitor.request("PUT", "/mmds", fmt::format(R"({{"latest": {{"meta-data": {{"instance-id": "{}"}}}}}})", id));
}

}  // namespace

bool ClonePool::revert(Clone& spent) {
  if (!options_.reverts || !spent.is_loaded || stopping_ || spent.monitor.has_ended()) return false;
  auto connection = CloneNetwork::socket();
  Status done = connection ? Status{} : propagate(connection);
  if (done) done = spent.monitor.request("PUT", "/snapshot/revert", R"({"clock_realtime": true})");
  if (done) done = tell_who_it_is(spent.monitor, next_id());
  if (!done) {
    report(done.error());
    return false;
  }
  spent.connection = std::move(*connection);
  return true;
}

Result<ClonePool::Clone> ClonePool::prepare() {
  const std::string id = next_id();
  auto monitor = MonitorProcess::start({.binary = options_.monitor, .directory = options_.directory, .id = id});
  if (!monitor) return propagate(monitor);
  if (auto told = tell_who_it_is(*monitor, id); !told) return propagate(told);
  auto connection = CloneNetwork::socket();
  if (!connection) return propagate(connection);
  if (auto unused = CloneNetwork::await_unused(); !unused) return propagate(unused);
  return Clone{.monitor = std::move(*monitor), .connection = std::move(*connection)};
}

ClonePool::Clone ClonePool::offer(Place& place) {
  std::unique_lock lock{mutex_};
  place.spent = false;
  ready_.push_back(&place);
  available_.notify_one();
  place.changed.wait(lock, [&] { return place.spent || (stopping_ && !place.leased); });
  Clone spent = std::move(*place.clone);
  place.clone.reset();
  return spent;
}

}  // namespace mayfly::host_agent
