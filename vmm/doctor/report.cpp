#include "vmm/doctor/doctor.h"

#include <algorithm>
#include <array>

#include <fmt/core.h>

namespace mayfly {
namespace {

constexpr std::array kWorstFirst = {Severity::Broken, Severity::Costly, Severity::Note, Severity::Ok};

/// RFC 8259, section 7: what must be escaped in a string.
std::string json_string(std::string_view text) {
  std::string result = "\"";
  for (const char character : text) {
    if (character == '"' || character == '\\') {
      result += '\\';
      result += character;
    } else if (static_cast<unsigned char>(character) < 0x20) {
      result += fmt::format("\\u{:04x}", static_cast<unsigned>(character));
    } else {
      result += character;
    }
  }
  return result + '"';
}

std::string json_string_or_null(std::string_view text) { return text.empty() ? "null" : json_string(text); }

std::ptrdiff_t count(const Findings& findings, Severity severity) {
  return std::ranges::count(findings, severity, &Finding::severity);
}

}  // namespace

std::string_view severity_name(Severity severity) noexcept {
  switch (severity) {
    case Severity::Ok:
      return "ok";
    case Severity::Note:
      return "note";
    case Severity::Costly:
      return "costly";
    case Severity::Broken:
      return "broken";
  }
  return "unknown";
}

std::string report_text(const Findings& findings) {
  std::string text;
  for (const Severity severity : kWorstFirst) {
    for (const Finding& finding : findings) {
      if (finding.severity != severity) continue;
      text += fmt::format("{:<7} {:<23} {}\n", severity_name(severity), finding.check, finding.found);
      if (!finding.cost.empty()) text += fmt::format("        cost: {}\n", finding.cost);
      if (!finding.remedy.empty()) text += fmt::format("        mend: {}\n", finding.remedy);
    }
  }
  text += fmt::format("\n{}: {} broken, {} costly, {} to note, {} ok\n",
                      can_run(findings) ? "Mayfly can run here" : "Mayfly cannot run here",
                      count(findings, Severity::Broken), count(findings, Severity::Costly),
                      count(findings, Severity::Note), count(findings, Severity::Ok));
  return text;
}

std::string report_json(const Findings& findings) {
  std::string text = fmt::format("{{\"can_run\": {}, \"findings\": [", can_run(findings));
  std::string_view separator = "\n";
  for (const Finding& finding : findings) {
    text +=
        fmt::format(R"({}  {{"check": {}, "severity": {}, "found": {}, "cost": {}, "remedy": {}}})", separator,
                    json_string(finding.check), json_string(severity_name(finding.severity)),
                    json_string(finding.found), json_string_or_null(finding.cost), json_string_or_null(finding.remedy));
    separator = ",\n";
  }
  return text + "\n]}\n";
}

}  // namespace mayfly
