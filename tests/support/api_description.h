#pragma once

#include "vmm/base/json_value.h"

#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

/// Descriptions of the API in Swagger 2.0: our own, the dialect's.
///
///   const ApiDescription ours = ApiDescription::ours();
///   for_each_operation(ours, [&](const std::string& path, const std::string& method, const JsonValue& operation) {
///     if (const JsonValue* body = ours.body(operation)) ... find(*body, "properties") ...
///   });
///
/// All scalars are strings. What is not there but must be is a failed test.
namespace mayfly::testing {

/// A member of an object; null where it is absent, or `object` is none.
[[nodiscard]] const JsonValue* find(const JsonValue& object, std::string_view name);
/// The same; a failed test, and an empty object, where it is absent.
[[nodiscard]] const JsonValue& at(const JsonValue& object, std::string_view name);
/// A scalar; empty where there is none.
[[nodiscard]] std::string text_of(const JsonValue* value);
/// A list of scalars, and the names of an object's members; empty where there is none.
[[nodiscard]] std::set<std::string> texts_of(const JsonValue* list);
[[nodiscard]] std::set<std::string> names_of(const JsonValue* object);

class ApiDescription {
 public:
  /// api/openapi.yaml
  [[nodiscard]] static ApiDescription ours();
  /// The dialect's, without prose: tests/unit/api/data/dialect.json.
  [[nodiscard]] static ApiDescription dialect();
  /// The dialect's as it is published, in YAML: a file of any version.
  [[nodiscard]] static ApiDescription published(const std::string& path);

  [[nodiscard]] const JsonValue& paths() const { return at(root_, "paths"); }
  /// The schema, where it refers to a definition that one.
  [[nodiscard]] const JsonValue& resolved(const JsonValue& schema) const;
  /// The schema of an operation's body; null where it has none.
  [[nodiscard]] const JsonValue* body(const JsonValue& operation) const;
  /// The schema of what a GET answers with; null where it has none.
  [[nodiscard]] const JsonValue* answer(const JsonValue& operation) const;

 private:
  explicit ApiDescription(JsonValue root) : root_(std::move(root)) {}
  JsonValue root_;
};

/// "put" as "PUT".
[[nodiscard]] std::string upper_case(std::string text);

/// Calls `visit` with path, method ("PUT") and operation, for each.
template <typename Visit>
void for_each_operation(const ApiDescription& description, const Visit& visit) {
  for (const auto& [path, methods] : std::get<JsonValue::Object>(description.paths().data))
    for (const auto& [method, operation] : std::get<JsonValue::Object>(methods.data))
      visit(path, upper_case(method), operation);
}

}  // namespace mayfly::testing
