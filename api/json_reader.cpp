#include "api/json_reader.h"

#include "vmm/base/text.h"

#include <climits>
#include <type_traits>

#include <fmt/format.h>

namespace mayfly {
namespace {

constexpr std::size_t kLongestQuote = 100;  // bytes of a value that a message repeats

std::string joined(std::span<const std::string_view> names) { return fmt::format("{}", fmt::join(names, ", ")); }

std::unexpected<Error> wrong_type(const std::string& where, std::string_view wanted, const JsonValue& value) {
  return fail(ErrorKind::InvalidArgument, "{} must be {}, not {}", where, wanted, describe(value));
}

}  // namespace

std::string in_quotes(std::string_view text) {
  if (text.size() <= kLongestQuote) return fmt::format("\"{}\"", text);
  std::size_t end = kLongestQuote;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80) --end;  // not inside a UTF-8 character
  return fmt::format("\"{}...\" ({} bytes)", text.substr(0, end), text.size());
}

std::string describe(const JsonValue& value) {
  return std::visit(
      []<typename T>(const T& held) -> std::string {
        if constexpr (std::is_same_v<T, std::nullptr_t>)
          return "null";
        else if constexpr (std::is_same_v<T, bool>)
          return held ? "true" : "false";
        else if constexpr (std::is_same_v<T, std::string>)
          return "the string " + in_quotes(held);
        else if constexpr (std::is_same_v<T, JsonValue::Array>)
          return "an array";
        else if constexpr (std::is_same_v<T, JsonValue::Object>)
          return "an object";
        else
          return fmt::format("{}", held);
      },
      value.data);
}

Result<bool> JsonBool::operator()(const JsonValue& value, const std::string& where) const {
  if (const bool* held = std::get_if<bool>(&value.data)) return *held;
  return wrong_type(where, "true or false", value);
}

Result<std::uint64_t> JsonWhole::operator()(const JsonValue& value, const std::string& where) const {
  const auto out_of_range = [&] {
    return fail(ErrorKind::InvalidArgument, "{} must be from {} to {}, not {}", where, lowest, highest,
                describe(value));
  };
  if (const auto* large = std::get_if<std::uint64_t>(&value.data)) {
    if (*large < lowest || *large > highest) return out_of_range();
    return *large;
  }
  if (const auto* whole = std::get_if<std::int64_t>(&value.data)) {
    if (*whole < 0) return out_of_range();
    const auto number = static_cast<std::uint64_t>(*whole);
    if (number < lowest || number > highest) return out_of_range();
    return number;
  }
  return wrong_type(where, "a whole number", value);
}

Result<std::string> JsonString::operator()(const JsonValue& value, const std::string& where) const {
  const auto* text = std::get_if<std::string>(&value.data);
  if (text == nullptr) return wrong_type(where, "a string", value);
  if (text->find('\0') != std::string::npos) {
    return fail(ErrorKind::InvalidArgument, "{} has a NUL character, at byte {}", where, text->find('\0'));
  }
  if (text->size() > longest) {
    return fail(ErrorKind::TooLarge, "{} is {} bytes long; at most {} are allowed", where, text->size(), longest);
  }
  return *text;
}

Result<std::string> JsonChecked::operator()(const JsonValue& value, const std::string& where) const {
  const auto* text = std::get_if<std::string>(&value.data);
  if (text == nullptr || !good(*text)) return wrong_type(where, rule, value);
  return *text;
}

Result<std::string> JsonPath::operator()(const JsonValue& value, const std::string& where) const {
  auto path = JsonString{.longest = PATH_MAX - 1}(value, where);
  if (path && path->empty()) return fail(ErrorKind::InvalidArgument, "{} is empty, where a path is needed", where);
  return path;
}

Result<std::map<std::string, std::string>> JsonStringMap::operator()(const JsonValue& value,
                                                                     const std::string& where) const {
  const auto* object = std::get_if<JsonValue::Object>(&value.data);
  if (object == nullptr) return wrong_type(where, "an object of strings", value);
  std::map<std::string, std::string> map;
  for (const auto& [name, member] : *object) {
    auto text = JsonString{}(member, fmt::format("{}[{}]", where, in_quotes(name)));
    if (!text) return propagate(text);
    if (!map.emplace(name, std::move(*text)).second) {
      return fail(ErrorKind::InvalidArgument, "{} has the key {} twice", where, in_quotes(name));
    }
  }
  return map;
}

Result<std::size_t> read_json_name(const JsonValue& value, const std::string& where,
                                   std::span<const std::string_view> names, std::size_t shown, bool ignore_case) {
  const auto* text = std::get_if<std::string>(&value.data);
  if (text != nullptr) {
    const auto found = std::ranges::find_if(
        names, [&](std::string_view name) { return ignore_case ? equal_ignoring_case(name, *text) : name == *text; });
    if (found != names.end()) return static_cast<std::size_t>(found - names.begin());
    return fail(ErrorKind::InvalidArgument, "{} must be one of {}, not {}", where, joined(names.first(shown)),
                in_quotes(*text));
  }
  return wrong_type(where, "one of " + joined(names.first(shown)), value);
}

Result<const JsonValue::Array*> read_json_array(const JsonValue& value, const std::string& where) {
  if (const auto* array = std::get_if<JsonValue::Array>(&value.data)) return array;
  return wrong_type(where, "an array", value);
}

JsonFields::JsonFields(const JsonValue& value, std::string where)
    : object_(std::get_if<JsonValue::Object>(&value.data)), where_(std::move(where)) {
  if (object_ == nullptr) failure_ = wrong_type(where_, "a JSON object", value).error();
}

void JsonFields::refuse(std::string message) {
  if (!failure_) failure_ = Error{ErrorKind::InvalidArgument, std::move(message)};
}

std::vector<std::string> JsonFields::ignore_unknown() {
  ignores_unknown_ = true;
  std::vector<std::string> unknown;
  if (object_ == nullptr) return unknown;
  for (const JsonMember& member : *object_)
    if (std::ranges::find(known_, member.name) == known_.end()) unknown.push_back(member.name);
  return unknown;
}

Status JsonFields::finish() {
  for (std::size_t i = 0; object_ != nullptr && i < object_->size(); ++i) {
    const std::string& name = (*object_)[i].name;
    if (std::ranges::find(known_, name) == known_.end()) {
      if (ignores_unknown_) continue;
      if (known_.empty()) return fail(ErrorKind::InvalidArgument, "{} has no field {}", where_, in_quotes(name));
      return fail(ErrorKind::InvalidArgument, "{} has no field {}; its fields are {}", where_, in_quotes(name),
                  joined(known_));
    }
    // Known names are few, so this stays linear in the object's size until the first repetition.
    const auto earlier = std::span{*object_}.first(i);
    if (std::ranges::find(earlier, name, &JsonMember::name) != earlier.end()) {
      return fail(ErrorKind::InvalidArgument, "{} has the field {} twice", where_, in_quotes(name));
    }
  }
  if (failure_) return std::unexpected(std::move(*failure_));
  return {};
}

const JsonValue* JsonFields::take(std::string_view name, bool required) {
  known_.push_back(name);
  if (failure_) return nullptr;
  const auto found = std::ranges::find(*object_, name, &JsonMember::name);
  const bool absent = found == object_->end();
  if (!absent && (required || !std::holds_alternative<std::nullptr_t>(found->value.data))) return &found->value;
  if (required) refuse(fmt::format("{} needs the field {}", where_, in_quotes(name)));
  return nullptr;
}

}  // namespace mayfly
