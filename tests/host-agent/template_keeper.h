#pragma once

#include "rootfs-tools/clones/template_file.h"
#include "tests/host-agent/bell.h"
#include "tests/host-agent/clone_pool.h"
#include "tests/host-agent/keeper.h"
#include "tests/host-agent/work_directory.h"

#include <atomic>
#include <chrono>
#include <deque>
#include <future>
#include <string>
#include <thread>

/// Clones of a template that `mayfly-template build` has made of a container image. Each is restored and connected before its
/// request comes: the connection goes through the agent in the guest to the function's port, so clones need neither TAPs nor
/// namespaces. It then waits paused: it takes no CPU, and the function's timeouts do not advance.
///
///   TemplateKeeper keeper{pool, {.monitor = "mayfly", .directory = "/run/agent", .from = *read_template("app.template"), ...}};
///   if (auto ready = keeper.await_first_clone(); !ready) ...
///
/// A place has a thread, which starts and ends the monitors there. A clone has a directory of its own, for its sockets and for
/// what it writes to its file system.
namespace mayfly::host_agent {

class TemplateKeeper final : public Keeper {
 public:
  struct Options {
    std::string monitor;    ///< The `mayfly` binary.
    std::string directory;  ///< For the clones' own.
    clones::Template from;
    unsigned size = 4;              ///< How many clones stand ready.
    std::chrono::seconds patience;  ///< Until somebody listens at the function's port.
    int stop = -1;                  ///< Readable once no clone is wanted any more.
  };
  TemplateKeeper(ClonePool& pool, Options options);
  ~TemplateKeeper() override;

  /// Error: what keeps a clone from standing ready.
  [[nodiscard]] Status await_first_clone() { return first_.get_future().get(); }

 private:
  struct Seat {
    Bell bell{};
    std::thread thread{};
  };
  struct Made {
    WorkDirectory directory;  // outlives its clone
    Clone clone;
  };
  void keep_filled(const Bell& bell);
  [[nodiscard]] bool is_over() const;
  /// Tells the first clone's fate; false: it was told before.
  bool note_first(const Status& status);
  [[nodiscard]] Result<Made> make() const;
  /// To the function, through the agent.
  [[nodiscard]] Result<OwnedFd> connect(const MonitorProcess& monitor, const std::string& directory) const;

  ClonePool& pool_;
  const Options options_;
  std::promise<Status> first_;
  std::atomic<bool> knows_first_ = false;
  std::deque<Seat> seats_;  // which do not move
};

}  // namespace mayfly::host_agent
