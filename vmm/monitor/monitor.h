#pragma once

#include "api/server.h"
#include "jailer/seccomp/thread_filters.h"
#include "vmm/base/log.h"
#include "vmm/base/metrics.h"
#include "vmm/base/thread_kind.h"
#include "vmm/cli/options.h"
#include "vmm/io/event_loop.h"
#include "vmm/io/signals.h"
#include "vmm/machine/controller.h"
#include "vmm/machine/end_deadline.h"
#include "vmm/monitor/log_trimmer.h"

#include <atomic>
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace mayfly {

/// The process around one machine, its parts in the order in which they are made: log, filters, loop, signals,
/// controller, API.
///
///   Monitor monitor{options, std::move(*filters), console};
///   monitor.prepare(limit); monitor.serve_api(path, most); monitor.lock_in();
///   auto code = monitor.run(std::move(commands), {});  // until the machine's end
class Monitor {
 public:
  /// `filters` are not entered yet.
  Monitor(const CommonOptions& common, seccomp::ThreadFilters filters, ConsoleOptions console);
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;
  /// A client may wait for an answer of a loop that will not run any more.
  ~Monitor();

  /// Everything but the API; no thread exists yet. `metadata_limit`: see ControllerOptions.
  [[nodiscard]] Status prepare(std::size_t metadata_limit);
  [[nodiscard]] Status serve_api(const std::string& socket_path, std::size_t max_payload);
  /// From here on this thread, and those that it makes, can make only the system calls that their filters allow; and
  /// clients are served.
  [[nodiscard]] Status lock_in();
  /// Carries the commands out until one is refused, and serves until the machine ends: the exit code. Error: the
  /// refusal. `warnings` are logged where the commands, which begin with it, have the log go.
  [[nodiscard]] Result<int> run(std::vector<Command> commands, std::vector<std::string> warnings);

 private:
  /// A child's: `parent` is another process's now, and stays as it is.
  Monitor(Monitor& parent, const BranchOrder& order, std::size_t index);
  [[noreturn]] void live_as_child(BranchOrder& order, std::size_t index, BranchReport report);
  [[nodiscard]] Status prepare_child(const BranchOrder& order, const std::string& socket_path);
  [[nodiscard]] int run_as_child(BranchOrder& order, std::size_t index, BranchReport& report);
  [[nodiscard]] Status make_parts();
  [[nodiscard]] Status show_logger();
  [[nodiscard]] int serve_to_end(const Status& served);
  void enter_thread(ThreadKind kind);
  void open_gate();
  /// Submits the next command; its reply submits the one after it.
  void carry_out_next();
  [[noreturn]] void leave(int code);

  CommonOptions common_;
  ConsoleOptions console_;
  Log log_;
  seccomp::ThreadFilters filters_;
  std::atomic<bool> gate_open_{false};
  std::size_t metadata_limit_ = MetadataStore::kDefaultLimit;
  std::size_t max_payload_ = ApiLimits{}.max_payload;
  bool has_inherited_filter_ = false;  // [brancher], of the thread that a child began as
  Metrics metrics_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<LogTrimmer> trimmer_;
  std::unique_ptr<StopSignals> signals_;
  std::unique_ptr<EndDeadline> deadline_;
  std::unique_ptr<ForkBrancher> brancher_;  // with --branches
  std::unique_ptr<Controller> controller_;
  std::unique_ptr<EndWatch> watch_;  // without an API
  std::unique_ptr<ApiServer> api_;
  std::vector<std::string> warnings_;
  std::deque<Command> commands_;  // that are still to be carried out
  std::optional<Error> refusal_;
};

}  // namespace mayfly
