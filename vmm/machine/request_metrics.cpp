#include "vmm/machine/request_metrics.h"

namespace mayfly {
namespace {

Counter& counter_of(ApiMetrics& api, CommandMethod method, bool ok) {
  switch (method) {
    case CommandMethod::Get:
      return ok ? api.get_count : api.get_fails;
    case CommandMethod::Patch:
      return ok ? api.patch_count : api.patch_fails;
    case CommandMethod::Put:
    case CommandMethod::Delete:
      break;
  }
  return ok ? api.put_count : api.put_fails;
}

}  // namespace

void count_request(Metrics& metrics, const CommandInfo& info, bool ok) {
  if (info.method == CommandMethod::Delete) return;  // the dialect has no such counter
  counter_of(metrics.api, info.method, ok).add();
  if (info.counters == nullptr) return;
  RequestCounters& kind = metrics.requests.*info.counters;
  (ok ? kind.count : kind.fails).add();
}

void count_refused_request(Metrics& metrics, std::string_view method) noexcept {
  if (method == "GET") metrics.api.get_fails.add();
  if (method == "PATCH") metrics.api.patch_fails.add();
  if (method == "PUT") metrics.api.put_fails.add();
}

}  // namespace mayfly
