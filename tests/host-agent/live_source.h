#pragma once

#include "api/client/monitor_process.h"
#include "tests/host-agent/bell.h"
#include "tests/host-agent/clone_network.h"
#include "tests/host-agent/clone_pool.h"
#include "tests/host-agent/function.h"
#include "tests/host-agent/function_snapshot.h"
#include "tests/host-agent/keeper.h"
#include "vmm/base/json_writer.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

/// No gap between a function's boot and its clones: the booted machine, the source, answers requests itself, one at a time,
/// while a live snapshot of it is written.
///
///   LiveSource source{pool, {...}};
///   if (auto ready = source.await_first_answer(); !ready) return ready;   // requests are answered from now on
///
/// The snapshot is taken once the source has answered some requests, so that clones begin warm. No request is at work in
/// the source at its moment: the next one is held back until the machine's memory is held, not until it is written. When
/// it is written, clones come into the pool, and the source ends with the first that stands ready.
///
/// A request that the source has left unanswered may be at work in it for ever, and would be at work in each clone. So
/// that machine ends, and the function is booted anew.
namespace mayfly::host_agent {

class LiveSource {
 public:
  struct Options {
    Function function;
    BootOptions boot;                      ///< Its deadline is the first boot's.
    std::chrono::seconds boot_patience{};  ///< For boots after that.
    unsigned warm_requests = 10;           ///< That are answered before the snapshot.
    /// Fills the pool with clones; on a thread of the source's.
    std::function<std::unique_ptr<Keeper>(FunctionSnapshot)> make_keeper;
  };
  LiveSource(ClonePool& pool, Options options);
  LiveSource(const LiveSource&) = delete;
  LiveSource& operator=(const LiveSource&) = delete;
  ~LiveSource();

  /// Error: what keeps the function from booting.
  [[nodiscard]] Status await_first_answer();
  /// {"state": "written", "pause_us": 530}: of the snapshot ("none", "writing", "written"), and how long the source stood
  /// still for it.
  void write(JsonWriter& json) const;

 private:
  enum class Snapshot { None, Writing, Written };
  void serve();
  [[nodiscard]] Result<MonitorProcess> boot();
  /// Until clones have taken over, or the machine is to be booted anew.
  void answer_requests(std::optional<MonitorProcess> monitor);
  void begin_snapshot(const MonitorApi& api);
  void take_snapshot(const MonitorApi& api);

  ClonePool& pool_;
  const Options options_;
  Bell bell_;
  ClonePool::Place& place_;
  std::optional<CloneNetwork> network_;
  unsigned boots_ = 0;
  std::promise<Status> first_;
  std::atomic<Snapshot> snapshot_ = Snapshot::None;
  std::atomic<std::uint64_t> pause_us_ = 0;
  std::unique_ptr<Keeper> keeper_;  // the writer's while there is one
  std::thread writer_;
  std::thread thread_;
};

}  // namespace mayfly::host_agent
