#include "vmm/base/metrics.h"

#include <iterator>
#include <type_traits>

#include <fmt/format.h>

namespace mayfly {

std::string prometheus_text(const Metrics& metrics) {
  std::string text;
  for_each_metric(metrics,
                  [&](std::string_view group, std::string_view name, std::string_view help, const auto& metric) {
                    const bool is_counter = std::is_same_v<std::remove_cvref_t<decltype(metric)>, Counter>;
                    const std::string full = fmt::format("mayfly_{}_{}{}", group, name, is_counter ? "_total" : "");
                    fmt::format_to(std::back_inserter(text), "# HELP {0} {1}\n# TYPE {0} {2}\n{0} {3}\n", full, help,
                                   is_counter ? "counter" : "gauge", metric.value());
                  });
  return text;
}

}  // namespace mayfly
