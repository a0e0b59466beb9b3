#include "tests/support/api_description.h"

#include "tests/support/files.h"
#include "tests/support/yaml_subset.h"

#include <algorithm>
#include <utility>

#include <gtest/gtest.h>

namespace mayfly::testing {
const JsonValue* find(const JsonValue& object, std::string_view name) {
  const auto* members = std::get_if<JsonValue::Object>(&object.data);
  if (members == nullptr) return nullptr;
  const auto found = std::ranges::find(*members, name, &JsonMember::name);
  return found == members->end() ? nullptr : &found->value;
}

const JsonValue& at(const JsonValue& object, std::string_view name) {
  static const JsonValue kNothing{JsonValue::Object{}};
  const JsonValue* found = find(object, name);
  EXPECT_NE(found, nullptr) << "there is no " << name;
  return found == nullptr ? kNothing : *found;
}

std::string text_of(const JsonValue* value) {
  const auto* text = value == nullptr ? nullptr : std::get_if<std::string>(&value->data);
  return text == nullptr ? "" : *text;
}

std::set<std::string> texts_of(const JsonValue* list) {
  std::set<std::string> texts;
  if (list == nullptr) return texts;
  for (const JsonValue& each : std::get<JsonValue::Array>(list->data)) texts.insert(text_of(&each));
  return texts;
}

std::set<std::string> names_of(const JsonValue* object) {
  std::set<std::string> names;
  if (object == nullptr) return names;
  for (const JsonMember& member : std::get<JsonValue::Object>(object->data)) names.insert(member.name);
  return names;
}

ApiDescription ApiDescription::ours() {
  return ApiDescription{parse_yaml_subset(content_of(project_file("api/openapi.yaml")))};
}

ApiDescription ApiDescription::dialect() {
  auto root = parse_json(content_of(project_file("tests/unit/api/data/dialect.json")), "dialect.json");
  EXPECT_TRUE(root) << root.error().message;
  return ApiDescription{root ? std::move(*root) : JsonValue{}};
}

ApiDescription ApiDescription::published(const std::string& path) {
  return ApiDescription{parse_yaml_subset(content_of(path), YamlProse::Skipped)};
}

const JsonValue& ApiDescription::resolved(const JsonValue& schema) const {
  const std::string reference = text_of(find(schema, "$ref"));
  if (reference.empty()) return schema;
  return at(at(root_, "definitions"), reference.substr(reference.rfind('/') + 1));
}

const JsonValue* ApiDescription::body(const JsonValue& operation) const {
  const JsonValue* parameters = find(operation, "parameters");
  if (parameters == nullptr) return nullptr;
  // After those of the path.
  return &resolved(at(std::get<JsonValue::Array>(parameters->data).back(), "schema"));
}

const JsonValue* ApiDescription::answer(const JsonValue& operation) const {
  const JsonValue* ok = find(at(operation, "responses"), "200");
  const JsonValue* schema = ok == nullptr ? nullptr : find(*ok, "schema");
  return schema == nullptr ? nullptr : &resolved(*schema);
}

std::string upper_case(std::string text) {
  std::ranges::transform(text, text.begin(),
                         [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return text;
}

}  // namespace mayfly::testing
