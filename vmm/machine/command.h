#pragma once

#include "snapshot/page_bitmaps.h"
#include "vmm/base/error.h"
#include "vmm/base/json_value.h"
#include "vmm/base/metrics.h"
#include "vmm/config/configuration.h"

#include <concepts>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

/// The typed requests that the API, the configuration file and the command line make of a machine, and its answers.
namespace mayfly {

enum class MachineState { NotStarted, Running, Paused };

/// In which states a command is legal.
struct LegalStates {
  bool not_started;
  bool running;
  bool paused;
};
inline constexpr LegalStates kAlways{true, true, true};
inline constexpr LegalStates kBeforeStart{true, false, false};
inline constexpr LegalStates kAfterStart{false, true, true};
inline constexpr LegalStates kWhilePaused{false, false, true};

enum class CommandMethod { Get, Put, Patch, Delete };

enum class CommandKind {
  Read,    ///< Answered at once, also while an earlier command takes its time.
  Look,    ///< Waits for its turn and takes time, and changes nothing.
  Change,  ///< Waits for its turn.
};

/// The facts of a command. A constructor, since an aggregate would let one of them be left out.
struct CommandInfo {
  using Counters = RequestCounters RequestMetrics::*;

  consteval CommandInfo(std::string_view name, CommandMethod method, LegalStates legal, Counters counters,
                        CommandKind kind)
      : name(name), method(method), legal(legal), counters(counters), kind(kind) {}

  std::string_view name;  ///< As a client writes it.
  CommandMethod method;
  LegalStates legal;
  Counters counters;  ///< Null where the dialect has none.
  CommandKind kind;
};

struct GetInstanceInfo {
  static constexpr CommandInfo info{"GET /", CommandMethod::Get, kAlways, &RequestMetrics::get_instance_info,
                                    CommandKind::Read};
};
struct GetMachineConfig {
  static constexpr CommandInfo info{"GET /machine-config", CommandMethod::Get, kAlways,
                                    &RequestMetrics::get_machine_cfg, CommandKind::Read};
};
struct GetVmConfig {
  static constexpr CommandInfo info{"GET /vm/config", CommandMethod::Get, kAlways, nullptr, CommandKind::Read};
};
struct GetPrometheusMetrics {
  static constexpr CommandInfo info{"GET /metrics/prometheus", CommandMethod::Get, kAlways, nullptr, CommandKind::Read};
};
/// Where a process that reads guest memory from outside finds it, and which pages of it are worth it.
struct GetMemoryMappings {
  static constexpr CommandInfo info{"GET /memory/mappings", CommandMethod::Get, kAfterStart, nullptr,
                                    CommandKind::Read};
};
struct GetMemory {
  static constexpr CommandInfo info{"GET /memory", CommandMethod::Get, kAfterStart, nullptr, CommandKind::Look};
};
struct GetDirtyMemory {
  static constexpr CommandInfo info{"GET /memory/dirty", CommandMethod::Get, kWhilePaused, nullptr, CommandKind::Look};
};
struct GetMmds {
  static constexpr CommandInfo info{"GET /mmds", CommandMethod::Get, kAlways, &RequestMetrics::get_mmds,
                                    CommandKind::Read};
};
struct PutBootSource {
  static constexpr CommandInfo info{"PUT /boot-source", CommandMethod::Put, kBeforeStart,
                                    &RequestMetrics::put_boot_source, CommandKind::Change};
  BootSource value;
};
struct PutMachineConfig {
  static constexpr CommandInfo info{"PUT /machine-config", CommandMethod::Put, kBeforeStart,
                                    &RequestMetrics::put_machine_cfg, CommandKind::Change};
  MachineConfig value;
};
struct PatchMachineConfig {
  static constexpr CommandInfo info{"PATCH /machine-config", CommandMethod::Patch, kBeforeStart,
                                    &RequestMetrics::patch_machine_cfg, CommandKind::Change};
  MachineConfigPatch value;
};
struct PutCpuConfig {
  static constexpr CommandInfo info{"PUT /cpu-config", CommandMethod::Put, kBeforeStart, &RequestMetrics::put_cpu_cfg,
                                    CommandKind::Change};
  CpuConfig value;
};
struct PutSerial {
  static constexpr CommandInfo info{"PUT /serial", CommandMethod::Put, kBeforeStart, &RequestMetrics::put_serial,
                                    CommandKind::Change};
  SerialConfig value;
};
struct PutDrive {
  static constexpr CommandInfo info{"PUT /drives", CommandMethod::Put, kBeforeStart, &RequestMetrics::put_drive,
                                    CommandKind::Change};
  DriveConfig value;
};
struct PatchDrive {
  static constexpr CommandInfo info{"PATCH /drives", CommandMethod::Patch, kAfterStart, &RequestMetrics::patch_drive,
                                    CommandKind::Change};
  DrivePatch value;
};
struct PutNetworkInterface {
  static constexpr CommandInfo info{"PUT /network-interfaces", CommandMethod::Put, kBeforeStart,
                                    &RequestMetrics::put_network, CommandKind::Change};
  NetworkInterfaceConfig value;
};
struct PatchNetworkInterface {
  static constexpr CommandInfo info{"PATCH /network-interfaces", CommandMethod::Patch, kAfterStart,
                                    &RequestMetrics::patch_network, CommandKind::Change};
  NetworkInterfacePatch value;
};
struct PutMmdsConfig {
  static constexpr CommandInfo info{"PUT /mmds/config", CommandMethod::Put, kBeforeStart, &RequestMetrics::put_mmds,
                                    CommandKind::Change};
  MmdsConfig value;
};
struct PutChannel {
  static constexpr CommandInfo info{"PUT /channels", CommandMethod::Put, kBeforeStart, &RequestMetrics::put_channel,
                                    CommandKind::Change};
  ChannelConfig value;
};
struct PutMmds {
  static constexpr CommandInfo info{"PUT /mmds", CommandMethod::Put, kAlways, &RequestMetrics::put_mmds,
                                    CommandKind::Change};
  JsonValue value;
};
/// The value is a JSON merge patch (RFC 7396).
struct PatchMmds {
  static constexpr CommandInfo info{"PATCH /mmds", CommandMethod::Patch, kAlways, &RequestMetrics::patch_mmds,
                                    CommandKind::Change};
  JsonValue value;
};
struct PutLogger {
  static constexpr CommandInfo info{"PUT /logger", CommandMethod::Put, kBeforeStart, &RequestMetrics::put_logger,
                                    CommandKind::Change};
  LoggerConfig value;
};
struct PutMetrics {
  static constexpr CommandInfo info{"PUT /metrics", CommandMethod::Put, kBeforeStart, &RequestMetrics::put_metrics,
                                    CommandKind::Change};
  MetricsConfig value;
};
struct StartInstance {
  static constexpr CommandInfo info{"InstanceStart", CommandMethod::Put, kBeforeStart, &RequestMetrics::put_actions,
                                    CommandKind::Change};
};
struct FlushMetrics {
  static constexpr CommandInfo info{"FlushMetrics", CommandMethod::Put, kAlways, &RequestMetrics::put_actions,
                                    CommandKind::Read};
};
/// Of a paused machine the keys wait in the keyboard controller, which a snapshot keeps.
struct SendCtrlAltDel {
  static constexpr CommandInfo info{"SendCtrlAltDel", CommandMethod::Put, kAfterStart, &RequestMetrics::put_actions,
                                    CommandKind::Change};
};
struct FinishWorkingSet {
  static constexpr CommandInfo info{"FinishWorkingSet", CommandMethod::Put, kAfterStart, &RequestMetrics::put_actions,
                                    CommandKind::Change};
};
struct PauseVm {
  static constexpr CommandInfo info{"PATCH /vm Paused", CommandMethod::Patch, kAfterStart, nullptr,
                                    CommandKind::Change};
};
struct ResumeVm {
  static constexpr CommandInfo info{"PATCH /vm Resumed", CommandMethod::Patch, kAfterStart, nullptr,
                                    CommandKind::Change};
};
struct CreateSnapshot {
  static constexpr CommandInfo info{"PUT /snapshot/create", CommandMethod::Put, kWhilePaused, nullptr,
                                    CommandKind::Change};
  SnapshotCreateParams value;
};
/// The machine stands still for a moment alone.
struct CreateLiveSnapshot {
  static constexpr CommandInfo info{"PUT /snapshot/create live", CommandMethod::Put, kAfterStart, nullptr,
                                    CommandKind::Change};
  SnapshotCreateParams value;
};
struct GetSnapshot {
  static constexpr CommandInfo info{"GET /snapshot", CommandMethod::Get, kAlways, nullptr, CommandKind::Read};
};
/// Ends the writing of a snapshot. A read in that it does not wait for the snapshot's end.
struct CancelSnapshot {
  static constexpr CommandInfo info{"DELETE /snapshot", CommandMethod::Delete, kAlways, nullptr, CommandKind::Read};
};
struct LoadSnapshot {
  static constexpr CommandInfo info{"PUT /snapshot/load", CommandMethod::Put, kBeforeStart, nullptr,
                                    CommandKind::Change};
  SnapshotLoadParams value;
};

struct RevertSnapshot {
  static constexpr CommandInfo info{"PUT /snapshot/revert", CommandMethod::Put, kAfterStart, nullptr,
                                    CommandKind::Change};
  SnapshotRevertParams value;
};

/// Children that go on from where the machine is.
struct BranchVm {
  static constexpr CommandInfo info{"PUT /vm/branch", CommandMethod::Put, kAfterStart, nullptr, CommandKind::Change};
  BranchParams value;
};

using Command =
    std::variant<GetInstanceInfo, GetMachineConfig, GetVmConfig, GetPrometheusMetrics, GetMmds, PutBootSource,
                 PutMachineConfig, PatchMachineConfig, PutCpuConfig, PutSerial, PutDrive, PatchDrive,
                 PutNetworkInterface, PatchNetworkInterface, PutMmdsConfig, PutChannel, PutMmds, PatchMmds, PutLogger,
                 PutMetrics, StartInstance, FlushMetrics, SendCtrlAltDel, FinishWorkingSet, PauseVm, ResumeVm,
                 CreateSnapshot, LoadSnapshot, RevertSnapshot, CreateLiveSnapshot, GetSnapshot, CancelSnapshot,
                 BranchVm, GetMemoryMappings, GetMemory, GetDirtyMemory>;

/// A command without its facts does not compile.
template <typename C>
concept DescribedCommand = requires {
  { C::info } -> std::same_as<const CommandInfo&>;
};
template <typename Variant>
inline constexpr bool kAllDescribed = false;
template <typename... C>
inline constexpr bool kAllDescribed<std::variant<C...>> = (DescribedCommand<C> && ...);
static_assert(kAllDescribed<Command>);

// No command is valueless.
[[nodiscard]] inline const CommandInfo& info_of(const Command& command) noexcept {  // NOLINT(bugprone-exception-escape)
  return std::visit([]<typename C>(const C&) -> const CommandInfo& { return C::info; }, command);
}

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

/// GET /snapshot: the one whose files are being written.
struct SnapshotStatus {
  bool is_written = false;  ///< None is where this is false.
  std::string snapshot_path{};
  std::string mem_file_path{};
  bool live = false;
  std::uint64_t done_bytes = 0;   ///< Of guest memory.
  std::uint64_t total_bytes = 0;  ///< 0: not known yet.
};

/// PUT /vm/branch: what became of a child.
struct BranchedChild {
  std::string id;
  std::string api_socket;
  std::int64_t pid = 0;  ///< As this process sees it.
  std::string error{};   ///< Empty: it is up.
};
struct Branched {
  std::vector<BranchedChild> children;  ///< In the request's order.
};

/// GET /memory/mappings
struct MemoryMappings {
  std::vector<MemoryMapping> mappings;
};
/// GET /memory/dirty
struct DirtyMemory {
  PageBitmap bitmap;
};

/// What a command answers with: std::monostate for those that only do.
using Answer = std::variant<std::monostate, InstanceInfo, MachineConfig, VmConfig, PrometheusText, MmdsContents,
                            SnapshotStatus, Branched, MemoryMappings, LookedAtPages, DirtyMemory>;

/// Of a command that has nothing to tell.
[[nodiscard]] inline Result<Answer> answer_of(Status status) {
  if (!status) return propagate(status);
  return {};
}

/// Of a command that comes too late.
[[nodiscard]] inline std::unexpected<Error> has_ended() { return fail(ErrorKind::State, "the machine has ended"); }

/// Gives a command's answer to its caller, exactly once. A reply that is dropped says that the machine has ended.
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
    if (taker_) taker_(has_ended());
  }
  void give(Result<Answer> answer) && { std::exchange(taker_, nullptr)(std::move(answer)); }

 private:
  Taker taker_;
};

/// Carries commands out. The API sees nothing else of the machine.
class CommandTarget {
 public:
  CommandTarget() = default;
  CommandTarget(const CommandTarget&) = delete;
  CommandTarget& operator=(const CommandTarget&) = delete;
  virtual ~CommandTarget() = default;
  /// Carries one command out, after those that were submitted before it, and gives its answer to `reply` when there is
  /// one: reads are answered at once, also while an earlier command takes its time. Any thread; the reply is given on
  /// the loop's. An error means that nothing changed; clients get its message.
  virtual void submit(Command command, Reply reply) = 0;
  /// The same, and waits for the answer. Any thread but the loop's.
  [[nodiscard]] Result<Answer> execute(Command command);
  /// Answers were sent, and no request is here: time to prepare for the next one. The same threads.
  virtual void answered() {}
  /// A request of that method was refused before it was a command. The same threads.
  virtual void refused(std::string_view /*method*/, std::string_view /*why*/) {}
};

}  // namespace mayfly
