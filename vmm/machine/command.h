#pragma once

#include "vmm/base/error.h"
#include "vmm/base/json_value.h"
#include "vmm/config/configuration.h"

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

/// The typed requests that the API, the configuration file and the command line make of a machine, and its answers.
namespace mayfly {

enum class MachineState { NotStarted, Running, Paused };

struct GetInstanceInfo {};
struct GetMachineConfig {};
struct GetVmConfig {};
struct GetPrometheusMetrics {};
struct GetMmds {};
struct PutBootSource {
  BootSource value;
};
struct PutMachineConfig {
  MachineConfig value;
};
struct PatchMachineConfig {
  MachineConfigPatch value;
};
struct PutCpuConfig {
  CpuConfig value;
};
struct PutSerial {
  SerialConfig value;
};
struct PutDrive {
  DriveConfig value;
};
struct PatchDrive {
  DrivePatch value;
};
struct PutNetworkInterface {
  NetworkInterfaceConfig value;
};
struct PatchNetworkInterface {
  NetworkInterfacePatch value;
};
struct PutMmdsConfig {
  MmdsConfig value;
};
struct PutMmds {
  JsonValue value;
};
/// The value is a JSON merge patch (RFC 7396).
struct PatchMmds {
  JsonValue value;
};
struct PutLogger {
  LoggerConfig value;
};
struct PutMetrics {
  MetricsConfig value;
};
struct StartInstance {};
struct FlushMetrics {};
struct SendCtrlAltDel {};
struct FinishWorkingSet {};
struct PauseVm {};
struct ResumeVm {};
struct CreateSnapshot {
  SnapshotCreateParams value;
};
struct LoadSnapshot {
  SnapshotLoadParams value;
};

using Command = std::variant<GetInstanceInfo, GetMachineConfig, GetVmConfig, GetPrometheusMetrics, GetMmds,
                             PutBootSource, PutMachineConfig, PatchMachineConfig, PutCpuConfig, PutSerial, PutDrive,
                             PatchDrive, PutNetworkInterface, PatchNetworkInterface, PutMmdsConfig, PutMmds, PatchMmds,
                             PutLogger, PutMetrics, StartInstance, FlushMetrics, SendCtrlAltDel, FinishWorkingSet,
                             PauseVm, ResumeVm, CreateSnapshot, LoadSnapshot>;

/// GET /
struct InstanceInfo {
  std::string id;
  MachineState state = MachineState::NotStarted;
};
/// GET /metrics/prometheus
struct PrometheusText {
  std::string text;
};

/// GET /mmds
struct MmdsContents {
  std::string json;
};

/// What a command answers with: std::monostate for those that only do.
using Answer = std::variant<std::monostate, InstanceInfo, MachineConfig, VmConfig, PrometheusText, MmdsContents>;

/// Gives a command's answer to whoever asked, exactly once: where it is dropped, that the machine has ended.
///
///   Reply reply{[](Result<Answer> answer) { ... }};   // called on the thread that gives or drops it
///   std::move(reply).give(answer);
class Reply {
 public:
  using Taker = std::move_only_function<void(Result<Answer>)>;
  explicit Reply(Taker taker) : taker_(std::move(taker)) {}
  Reply(Reply&& other) noexcept : taker_(std::exchange(other.taker_, nullptr)) {}
  Reply& operator=(Reply&&) = delete;
  Reply(const Reply&) = delete;
  Reply& operator=(const Reply&) = delete;
  ~Reply() {
    if (taker_) taker_(fail(ErrorKind::State, "the machine has ended"));
  }
  void give(Result<Answer> answer) && { std::exchange(taker_, nullptr)(std::move(answer)); }

 private:
  Taker taker_;
};

/// Whoever carries commands out. The API sees nothing else of the machine.
class CommandTarget {
 public:
  CommandTarget() = default;
  CommandTarget(const CommandTarget&) = delete;
  CommandTarget& operator=(const CommandTarget&) = delete;
  virtual ~CommandTarget() = default;
  /// Carries one command out, after those that were submitted before it, and gives its answer to `reply` when there is
  /// one: reads are answered at once, also while an earlier command takes its time. Any thread; the reply is given on
  /// the loop's. An error means that nothing changed; its message is what a client is told.
  virtual void submit(Command command, Reply reply) = 0;
  /// The same, and waits for the answer. Any thread but the loop's.
  [[nodiscard]] Result<Answer> execute(Command command);
  /// Answers have been sent, and the next request is still to come: time for what it may need. The same threads.
  virtual void answered() {}
  /// A request of that method has made no command, and its client was told why. The same threads.
  virtual void refused(std::string_view /*method*/, std::string_view /*why*/) {}
};

}  // namespace mayfly
