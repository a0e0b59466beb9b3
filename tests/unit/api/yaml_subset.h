#pragma once

#include "api/json_reader.h"

#include <string_view>

namespace mayfly {

/// The YAML that api/openapi.yaml is written in, as a JSON value whose scalars are all strings: mappings by
/// indentation, lists of mappings ("- name: x") or in brackets, scalars of one line, plain or in double quotes,
/// comments on lines of their own. Anything else is a failed test that names the line.
[[nodiscard]] JsonValue parse_yaml_subset(std::string_view text);

}  // namespace mayfly
