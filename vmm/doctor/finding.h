#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mayfly {

/// How much a finding matters.
enum class Severity {
  Ok,
  Note,    ///< Works, but a user may want to know: density, security between tenants, a feature that is not to be had.
  Costly,  ///< Works, and takes time or memory that a setting would save.
  Broken,  ///< Mayfly cannot run machines here.
};

/// "ok", "note", "costly", "broken".
[[nodiscard]] std::string_view severity_name(Severity severity) noexcept;

/// What one check of the host found.
struct Finding {
  Severity severity = Severity::Ok;
  std::string check;   ///< A stable name, such as "nx-huge-pages".
  std::string found;   ///< What is there.
  std::string cost;    ///< What it costs; empty where it costs nothing.
  std::string remedy;  ///< How to change it; empty where there is nothing to do.
};

using Findings = std::vector<Finding>;

}  // namespace mayfly
