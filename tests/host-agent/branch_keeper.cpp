#include "tests/host-agent/branch_keeper.h"

#include "vmm/base/json_writer.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <utility>

namespace mayfly::host_agent {
namespace {

using std::chrono_literals::operator""ms;

constexpr unsigned kParentTap = 0;
/// What PUT /vm/branch takes at once.
constexpr std::size_t kMostChildren = 128;

}  // namespace

BranchKeeper::BranchKeeper(ClonePool& pool, KeeperOptions options) : pool_(pool), options_(std::move(options)) {
  for (unsigned i = 0; i < options_.size; ++i) seats_.push_back({.place = pool_.add(bell_), .tap = kParentTap + 1 + i});
  thread_ = std::thread{[this] { keep_filled(); }};
}

BranchKeeper::~BranchKeeper() { thread_.join(); }

void BranchKeeper::keep_filled() {
  while (!pool_.is_stopping()) {
    const auto entered = enter_network();
    if (entered) break;
    report_no_clone(entered.error());
    bell_.wait({}, kKeeperPause);
  }
  while (!pool_.is_stopping()) wait(look_after_all());
  // What is in use has been killed, and comes back from the requests that had it.
  while (std::ranges::any_of(seats_, &Seat::is_filled)) {
    for (Seat& seat : seats_) clear(seat);
    if (std::ranges::any_of(seats_, &Seat::is_filled)) bell_.wait();
  }
  for (Seat& seat : seats_) seat.ending.reset();
  end_all();
}

Status BranchKeeper::enter_network() {
  auto network = CloneNetwork::enter(kParentTap + 1 + options_.size);
  if (!network) return propagate(network);
  network_.emplace(std::move(*network));
  return {};
}

std::optional<BranchKeeper::Milliseconds> BranchKeeper::look_after_all() {
  for (Seat& seat : seats_) clear(seat);
  if (auto parent = have_parent(); !parent) {
    report_no_clone(parent.error());
    return kKeeperPause;
  }
  std::optional<Milliseconds> longest;
  std::vector<Seat*> empty;
  for (Seat& seat : seats_) {
    if (seat.ending) longest = std::min(longest.value_or(Milliseconds::max()), time_left(seat.ends_by));
    if (seat.is_filled || seat.ending || empty.size() == kMostChildren) continue;
    const auto unused = network_->is_unused(seat.tap);
    if (!unused) report_no_clone(unused.error());
    if (unused && *unused)
      empty.push_back(&seat);
    else  // nothing tells when the kernel has taken a ring apart
      longest = std::min(longest.value_or(Milliseconds::max()), unused ? Milliseconds{1} : Milliseconds{kKeeperPause});
  }
  if (empty.empty()) return longest;
  if (auto filled = fill(empty); !filled) {
    report_no_clone(filled.error());
    return kKeeperPause;
  }
  return 0ms;  // meanwhile others may have become empty
}

/// Has what was in the place end, and notes that it has.
void BranchKeeper::clear(Seat& seat) {
  if (seat.is_filled) {
    if (auto back = pool_.take_back(seat.place)) {
      seat.is_filled = false;
      seat.ending.emplace(std::move(back->clone.monitor));
      seat.ending->ask_to_end();
      seat.ends_by = Deadline::clock::now() + kEndPatience;
    }
  }
  if (seat.ending && (seat.ending->has_ended() || time_left(seat.ends_by) == 0ms)) seat.ending.reset();
}

// --- The parent ------------------------------------------------------------------------------------------------------

Status BranchKeeper::have_parent() {
  if (processes_ && processes_->has_ended()) end_all();
  if (parent_ && !parent_->has_ended()) return {};
  parent_.reset();
  if (!processes_) {
    auto entered = PidNamespace::enter();
    if (!entered) return propagate(entered);
    processes_.emplace(std::move(*entered));
  }
  auto parent = MonitorProcess::start({.binary = options_.monitor,
                                       .directory = options_.directory,
                                       .id = fmt::format("parent-{}", ++parents_),
                                       .more = {"--branches"}});
  if (!parent) return propagate(parent);
  if (auto unused = network_->await_unused(kParentTap); !unused) return unused;
  if (auto loaded = parent->api().request("PUT", "/snapshot/load", options_.snapshot.load_request({.resumes = false}));
      !loaded)
    return loaded;
  parent_.emplace(std::move(*parent));
  return {};
}

/// The parent, and all that was ever branched off in its PID namespace.
void BranchKeeper::end_all() {
  parent_.reset();
  processes_.reset();
}

// --- The children ----------------------------------------------------------------------------------------------------

Status BranchKeeper::fill(const std::vector<Seat*>& seats) {
  std::vector<Wanted> wanted;
  for (Seat* const seat : seats) wanted.push_back({.seat = seat, .id = pool_.next_id()});
  const auto answer = parent_->api().ask("PUT", "/vm/branch", branch_request(wanted));
  if (!answer) {
    // A refusal changes nothing. Otherwise nobody knows which children there are.
    if (answer.error().kind != ErrorKind::State) end_all();
    return std::unexpected(answer.error());
  }
  Status filled;
  for (const Wanted& each : wanted) {
    auto child = MonitorProcess::adopt(socket_path(options_.directory, each.id));
    if (!child && child.error().kind == ErrorKind::NotFound) {
      filled = fail(ErrorKind::System, "{} did not come up: {}", each.id, *answer);
      continue;
    }
    if (!child) {
      end_all();
      return propagate(child);
    }
    auto clone = connect(std::move(*child), each.seat->tap);
    if (!clone) {
      filled = propagate(clone);
      continue;
    }
    pool_.offer(each.seat->place, std::move(*clone));
    each.seat->is_filled = true;
  }
  return filled;
}

Result<Clone> BranchKeeper::connect(MonitorProcess child, unsigned tap) const {
  auto socket = TRY(network_->socket(tap));
  TRY(child.api().request("PATCH", "/vm", R"({"state": "Resumed"})"));
  return make_ready(std::move(child), std::move(socket), pool_);
}

std::string BranchKeeper::branch_request(const std::vector<Wanted>& wanted) const {
  JsonWriter json;
  json.begin_object();
  json.key("children");
  json.begin_array();
  for (const Wanted& each : wanted) {
    json.begin_object();
    json.field("id", each.id);
    json.field("api_socket", socket_path(options_.directory, each.id));
    json.key("metadata");
    write_metadata(json, each.id);
    json.key("network_overrides");
    json.begin_array();
    json.begin_object();
    json.field("iface_id", kGuestInterface);
    json.field("host_dev_name", tap_name(each.seat->tap));
    json.end_object();
    json.end_array();
    json.end_object();
  }
  json.end_array();
  json.end_object();
  return std::move(json).take();
}

void BranchKeeper::wait(std::optional<Milliseconds> longest) {
  std::vector<int> ends{parent_ ? parent_->pidfd() : -1};
  for (const Seat& seat : seats_)
    ends.push_back(seat.ending ? seat.ending->pidfd() : seat.is_filled ? pool_.ready_pidfd(seat.place) : -1);
  bell_.wait(ends, longest.value_or(-1ms));
}

}  // namespace mayfly::host_agent
