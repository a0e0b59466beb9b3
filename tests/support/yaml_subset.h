#pragma once

#include "vmm/base/json_value.h"

#include <string_view>

namespace mayfly::testing {

enum class YamlProse {
  AsWritten,
  Skipped,  ///< Of "description" and "summary" the key alone is left: theirs may be of any length and form.
};

/// The YAML that api/openapi.yaml is written in, as a JSON value whose scalars are all strings: mappings by
/// indentation, lists of mappings ("- name: x") or scalars, or in brackets, scalars of one line, plain or in double
/// quotes, comments on lines of their own. Anything else is a failed test that names the line.
[[nodiscard]] JsonValue parse_yaml_subset(std::string_view text, YamlProse prose = YamlProse::AsWritten);

}  // namespace mayfly::testing
