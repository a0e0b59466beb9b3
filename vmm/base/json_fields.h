#pragma once

#include "vmm/base/error.h"
#include "vmm/base/json_value.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Fields of JSON that others wrote. A field that is absent or null is as if it were empty, as for the programs that write
/// images; one that is there twice, or of another type, is an error, since readers differ in which one they take.
///
/// `what` names the document in errors.
namespace mayfly {

/// Null where it is absent.
[[nodiscard]] Result<const JsonValue*> field_of(const JsonValue& object, std::string_view name, std::string_view what);
/// Without NUL, which no argument, name or variable of a program can have.
[[nodiscard]] Result<std::string> text_field(const JsonValue& object, std::string_view name, std::string_view what);
[[nodiscard]] Result<std::vector<std::string>> texts_field(const JsonValue& object, std::string_view name,
                                                           std::string_view what);
[[nodiscard]] Result<std::span<const JsonValue>> array_field(const JsonValue& object, std::string_view name,
                                                             std::string_view what);
[[nodiscard]] Result<std::span<const JsonMember>> object_field(const JsonValue& object, std::string_view name,
                                                               std::string_view what);
[[nodiscard]] Result<std::optional<std::uint64_t>> number_field(const JsonValue& object, std::string_view name,
                                                                std::string_view what);

}  // namespace mayfly
