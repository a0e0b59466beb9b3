#include "tests/host-agent/live_source.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

namespace mayfly::host_agent {
namespace {

using std::chrono_literals::operator""ms;

void report_source(std::string_view what, const Error& error) {
  std::fprintf(stderr, "host_agent: %.*s: %s\n", static_cast<int>(what.size()), what.data(), error.message.c_str());
}

/// How long the latest live snapshot had the machine stand still.
Result<std::uint64_t> pause_of(const MonitorApi& api) {
  constexpr std::string_view kName = "\nmayfly_latencies_us_live_snapshot_pause ";
  const auto metrics = api.ask("GET", "/metrics/prometheus");
  if (!metrics) return std::unexpected(metrics.error());
  const std::size_t at = metrics->find(kName);
  if (at == std::string::npos) return fail(ErrorKind::Unsupported, "the monitor's metrics have no live_snapshot_pause");
  return std::strtoull(metrics->c_str() + at + kName.size(), nullptr, 10);
}

}  // namespace

LiveSource::LiveSource(ClonePool& pool, Options options)
    : pool_(pool), options_(std::move(options)), place_(pool.add(bell_, ClonePool::Kind::Source)) {
  thread_ = std::thread{[this] { serve(); }};
}

LiveSource::~LiveSource() { thread_.join(); }

Status LiveSource::await_first_answer() { return first_.get_future().get(); }

void LiveSource::write(JsonWriter& json) const {
  const Snapshot state = snapshot_;
  json.begin_object();
  json.field("state", state == Snapshot::None ? "none" : state == Snapshot::Writing ? "writing" : "written");
  if (state == Snapshot::Written) json.field("pause_us", pause_us_.load());
  json.end_object();
}

Result<MonitorProcess> LiveSource::boot() {
  if (!network_) {
    auto network = CloneNetwork::enter(1);
    if (!network) return propagate(network);
    network_.emplace(std::move(*network));
  }
  if (auto unused = network_->await_unused(0); !unused) return propagate(unused);
  BootOptions options = options_.boot;
  options.id = fmt::format("source-{}", ++boots_);
  options.more = {"--live-snapshots"};
  if (boots_ > 1) options.deadline = Deadline::clock::now() + options_.boot_patience;
  return boot_function(options_.function, options, *network_);
}

void LiveSource::serve() {
  for (bool is_first = true; !pool_.is_stopping() && snapshot_ != Snapshot::Written; is_first = false) {
    auto monitor = boot();
    if (is_first) first_.set_value(monitor ? Status{} : propagate(monitor));
    if (!monitor && is_first) return;
    if (!monitor) {
      report_source("the function cannot be booted again", monitor.error());
      bell_.wait({}, kKeeperPause);
      continue;
    }
    answer_requests(std::move(*monitor));
    if (writer_.joinable()) writer_.join();
  }
}

void LiveSource::answer_requests(std::optional<MonitorProcess> monitor) {
  unsigned answered = 0;
  for (;;) {
    if (snapshot_ == Snapshot::None && answered >= options_.warm_requests) {
      begin_snapshot(monitor->api());
      answered = 0;  // where it fails, there is another after as many
    }
    auto connection = network_->socket(0);
    if (!connection) return report_source("the function is booted again", connection.error());
    ClonePool::Returned back = pool_.lend(
        place_, {.monitor = std::move(*monitor), .connection = std::move(*connection), .start = std::nullopt});
    back.clone.connection.reset();
    monitor.emplace(std::move(back.clone.monitor));
    if (pool_.is_stopping() || monitor->has_ended()) return;
    if (!back.was_used) return;  // clones stand ready
    if (!back.has_answered) break;
    ++answered;
  }
  // Its memory may be held already, and is as of a moment at which it was at work on nothing.
  if (writer_.joinable()) writer_.join();
}

/// Returns when the machine's memory is held, or cannot be.
void LiveSource::begin_snapshot(const MonitorApi& api) {
  if (writer_.joinable()) writer_.join();  // one that failed
  snapshot_ = Snapshot::Writing;
  writer_ = std::thread{[this, api] { take_snapshot(api); }};
  while (snapshot_ == Snapshot::Writing) {
    const auto status = api.ask("GET", "/snapshot");
    // Held, and how much there is to write is known.
    if (status && status->find(R"("state":"Writing")") != std::string::npos &&
        status->find(R"("total_bytes":0)") == std::string::npos)
      return;
    bell_.wait({}, 1ms);  // nothing tells when it is held
  }
}

void LiveSource::take_snapshot(const MonitorApi& api) {
  FunctionSnapshot snapshot = FunctionSnapshot::in(options_.boot.directory);
  // As long as its disk takes: the machine answers meanwhile.
  auto taken =
      api.request("PUT", "/snapshot/create", snapshot.create_request(true), Deadline::clock::now() + kSnapshotPatience);
  const Result<std::uint64_t> pause = taken ? pause_of(api) : propagate(taken);
  if (!pause) {
    if (!pool_.is_stopping()) report_source("no live snapshot", pause.error());
    snapshot_ = Snapshot::None;
    bell_.ring();
    return;
  }
  pause_us_ = *pause;
  snapshot_ = Snapshot::Written;
  keeper_ = options_.make_keeper(std::move(snapshot));
}

}  // namespace mayfly::host_agent
