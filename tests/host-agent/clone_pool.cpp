#include "tests/host-agent/clone_pool.h"

#include <algorithm>

namespace mayfly::host_agent {

// --- Requests --------------------------------------------------------------------------------------------------------

ClonePool::Lease::~Lease() {
  if (place_ != nullptr) pool_.give_back(*place_);
}

Status ClonePool::Lease::go_on(Deadline deadline) const {
  const Clone& clone = *place_->clone_;
  if (!clone.start) return {};
  return clone.monitor.api().request(clone.start->method, clone.start->path, clone.start->body, deadline);
}

std::optional<ClonePool::Lease> ClonePool::take(Deadline deadline) {
  std::unique_lock lock{mutex_};
  if (ready_.empty() && waiting_ >= size_) return std::nullopt;
  for (;;) {
    ++waiting_;
    const bool in_time = available_.wait_until(lock, deadline, [&] { return stopping_ || !ready_.empty(); });
    --waiting_;
    if (!in_time || stopping_) return std::nullopt;
    Place& place = *ready_.front();
    ready_.pop_front();
    if (!place.clone_->monitor.has_ended()) {
      place.use_ = Place::Use::Leased;
      place.has_answered_ = false;
      return Lease{*this, place};
    }
    // Its keeper is about to see that.
    place.use_ = Place::Use::Spent;
    place.has_answered_ = false;
    place.bell_.ring();
  }
}

void ClonePool::give_back(Place& place) {
  const std::scoped_lock lock{mutex_};
  place.use_ = Place::Use::Spent;
  place.bell_.ring();
}

void ClonePool::stop() {
  const std::scoped_lock lock{mutex_};
  stopping_ = true;
  end_.ring();
  for (Place& place : places_) {
    if (place.clone_) place.clone_->monitor.kill();
    place.bell_.ring();
  }
  available_.notify_all();
}

ClonePool::State ClonePool::state() const {
  const std::scoped_lock lock{mutex_};
  State state{.ready = static_cast<unsigned>(ready_.size()), .waiting = waiting_};
  for (const Place& place : places_) state.busy += place.use_ == Place::Use::Leased ? 1 : 0;
  return state;
}

std::vector<pid_t> ClonePool::processes() const {
  const std::scoped_lock lock{mutex_};
  std::vector<pid_t> all;
  for (const Place& place : places_)
    if (place.clone_) all.push_back(place.clone_->monitor.api().process());
  return all;
}

// --- Keepers ---------------------------------------------------------------------------------------------------------

ClonePool::Place& ClonePool::add(const Bell& bell, Kind kind) {
  const std::scoped_lock lock{mutex_};
  return places_.emplace_back(bell, kind);
}

void ClonePool::offer(Place& place, Clone clone) {
  const std::scoped_lock lock{mutex_};
  place.clone_.emplace(std::move(clone));
  place.use_ = Place::Use::Ready;
  ready_.push_back(&place);
  available_.notify_one();
  if (place.kind_ == Kind::Source || has_clones_) return;
  has_clones_ = true;
  for (const Place& other : places_)
    if (other.kind_ == Kind::Source) other.bell_.ring();
}

std::optional<ClonePool::Returned> ClonePool::take_back(Place& place) {
  const std::scoped_lock lock{mutex_};
  if (place.use_ == Place::Use::Empty || place.use_ == Place::Use::Leased) return std::nullopt;
  const bool was_used = place.use_ == Place::Use::Spent;
  if (!was_used) {
    const bool is_over = place.kind_ == Kind::Source && has_clones_;
    if (!stopping_ && !is_over && !place.clone_->monitor.has_ended()) return std::nullopt;
    std::erase(ready_, &place);
  }
  place.use_ = Place::Use::Empty;
  Returned back{
      .clone = std::move(*place.clone_), .was_used = was_used, .has_answered = was_used && place.has_answered_};
  place.clone_.reset();
  return back;
}

ClonePool::Returned ClonePool::lend(Place& place, Clone clone) {
  offer(place, std::move(clone));
  for (;;) {
    if (auto back = take_back(place)) return std::move(*back);
    place.bell_.wait({ready_pidfd(place)});
  }
}

int ClonePool::ready_pidfd(const Place& place) const {
  const std::scoped_lock lock{mutex_};
  return place.use_ == Place::Use::Ready ? place.clone_->monitor.pidfd() : -1;
}

std::string ClonePool::next_id() {
  const std::scoped_lock lock{mutex_};
  return fmt::format("clone-{}", ++made_);
}

}  // namespace mayfly::host_agent
