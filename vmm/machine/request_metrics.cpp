#include "vmm/machine/request_metrics.h"

#include "vmm/machine/machine_state.h"

namespace mayfly {
namespace {

/// The counters of a command's kind; null where the dialect has none.
struct KindOf {
  RequestMetrics& of;

  RequestCounters* operator()(const GetInstanceInfo&) const { return &of.get_instance_info; }
  RequestCounters* operator()(const GetMachineConfig&) const { return &of.get_machine_cfg; }
  RequestCounters* operator()(const GetMmds&) const { return &of.get_mmds; }
  RequestCounters* operator()(const PatchDrive&) const { return &of.patch_drive; }
  RequestCounters* operator()(const PatchMachineConfig&) const { return &of.patch_machine_cfg; }
  RequestCounters* operator()(const PatchMmds&) const { return &of.patch_mmds; }
  RequestCounters* operator()(const PatchNetworkInterface&) const { return &of.patch_network; }
  RequestCounters* operator()(const StartInstance&) const { return &of.put_actions; }
  RequestCounters* operator()(const FlushMetrics&) const { return &of.put_actions; }
  RequestCounters* operator()(const SendCtrlAltDel&) const { return &of.put_actions; }
  RequestCounters* operator()(const FinishWorkingSet&) const { return &of.put_actions; }
  RequestCounters* operator()(const PutBootSource&) const { return &of.put_boot_source; }
  RequestCounters* operator()(const PutCpuConfig&) const { return &of.put_cpu_cfg; }
  RequestCounters* operator()(const PutDrive&) const { return &of.put_drive; }
  RequestCounters* operator()(const PutLogger&) const { return &of.put_logger; }
  RequestCounters* operator()(const PutMachineConfig&) const { return &of.put_machine_cfg; }
  RequestCounters* operator()(const PutMetrics&) const { return &of.put_metrics; }
  RequestCounters* operator()(const PutMmds&) const { return &of.put_mmds; }
  RequestCounters* operator()(const PutMmdsConfig&) const { return &of.put_mmds; }
  RequestCounters* operator()(const PutNetworkInterface&) const { return &of.put_network; }
  RequestCounters* operator()(const PutSerial&) const { return &of.put_serial; }
  RequestCounters* operator()(const GetVmConfig&) const { return nullptr; }
  RequestCounters* operator()(const GetPrometheusMetrics&) const { return nullptr; }
  RequestCounters* operator()(const PauseVm&) const { return nullptr; }
  RequestCounters* operator()(const ResumeVm&) const { return nullptr; }
  RequestCounters* operator()(const CreateSnapshot&) const { return nullptr; }
  RequestCounters* operator()(const LoadSnapshot&) const { return nullptr; }
};

}  // namespace

void count_request(Metrics& metrics, const Command& command, bool ok) {
  const std::string_view name = name_of(command);
  ApiMetrics& api = metrics.api;
  if (name.starts_with("GET"))
    (ok ? api.get_count : api.get_fails).add();
  else if (name.starts_with("PATCH"))
    (ok ? api.patch_count : api.patch_fails).add();
  else
    (ok ? api.put_count : api.put_fails).add();
  if (RequestCounters* const kind = std::visit(KindOf{metrics.requests}, command))
    (ok ? kind->count : kind->fails).add();
}

void count_refused_request(Metrics& metrics, std::string_view method) noexcept {
  if (method == "GET") metrics.api.get_fails.add();
  if (method == "PATCH") metrics.api.patch_fails.add();
  if (method == "PUT") metrics.api.put_fails.add();
}

}  // namespace mayfly
