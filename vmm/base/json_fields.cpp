#include "vmm/base/json_fields.h"

#include "vmm/base/try.h"

#include <variant>

namespace mayfly {
namespace {

std::unexpected<Error> wrong_type(std::string_view name, std::string_view type, std::string_view what) {
  return fail(ErrorKind::InvalidArgument, "{}: '{}' must be {}; make it anew", what, name, type);
}

Result<std::string> text_of(const JsonValue& value, std::string_view name, std::string_view what) {
  const auto* const text = std::get_if<std::string>(&value.data);
  if (text == nullptr) return wrong_type(name, "a string", what);
  if (text->contains('\0')) return wrong_type(name, "without NUL", what);
  return *text;
}

}  // namespace

Result<const JsonValue*> field_of(const JsonValue& object, std::string_view name, std::string_view what) {
  const auto* const members = std::get_if<JsonValue::Object>(&object.data);
  if (members == nullptr) return fail(ErrorKind::InvalidArgument, "{} must be a JSON object", what);
  const JsonValue* found = nullptr;
  for (const JsonMember& each : *members) {
    if (each.name != name) continue;
    if (found != nullptr) return fail(ErrorKind::InvalidArgument, "{}: '{}' is there twice; make it anew", what, name);
    found = &each.value;
  }
  if (found != nullptr && std::holds_alternative<std::nullptr_t>(found->data)) return nullptr;
  return found;
}

Result<std::string> text_field(const JsonValue& object, std::string_view name, std::string_view what) {
  const JsonValue* const value = TRY(field_of(object, name, what));
  if (value == nullptr) return std::string{};
  return text_of(*value, name, what);
}

Result<std::span<const JsonValue>> array_field(const JsonValue& object, std::string_view name, std::string_view what) {
  const JsonValue* const value = TRY(field_of(object, name, what));
  if (value == nullptr) return std::span<const JsonValue>{};
  const auto* const array = std::get_if<JsonValue::Array>(&value->data);
  if (array == nullptr) return wrong_type(name, "an array", what);
  return std::span<const JsonValue>{*array};
}

Result<std::span<const JsonMember>> object_field(const JsonValue& object, std::string_view name,
                                                 std::string_view what) {
  const JsonValue* const value = TRY(field_of(object, name, what));
  if (value == nullptr) return std::span<const JsonMember>{};
  const auto* const members = std::get_if<JsonValue::Object>(&value->data);
  if (members == nullptr) return wrong_type(name, "an object", what);
  return std::span<const JsonMember>{*members};
}

Result<std::vector<std::string>> texts_field(const JsonValue& object, std::string_view name, std::string_view what) {
  const auto values = TRY(array_field(object, name, what));
  std::vector<std::string> texts;
  for (const JsonValue& each : values) {
    auto text = TRY(text_of(each, name, what));
    texts.push_back(std::move(text));
  }
  return texts;
}

Result<std::optional<std::uint64_t>> number_field(const JsonValue& object, std::string_view name,
                                                  std::string_view what) {
  const JsonValue* const value = TRY(field_of(object, name, what));
  if (value == nullptr) return std::nullopt;
  if (const auto* const number = std::get_if<std::uint64_t>(&value->data)) return *number;
  if (const auto* const number = std::get_if<std::int64_t>(&value->data); number != nullptr && *number >= 0)
    return static_cast<std::uint64_t>(*number);
  return wrong_type(name, "a whole number that is not negative", what);
}

}  // namespace mayfly
