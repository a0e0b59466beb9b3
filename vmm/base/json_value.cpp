#include "vmm/base/json_value.h"

#include "vmm/base/json_writer.h"

#include <simdjson.h>

#include <algorithm>
#include <cctype>
#include <iterator>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

namespace mayfly {
namespace {

JsonValue copy_of(simdjson::dom::element element);

JsonValue copy_of_object(simdjson::dom::object object) {
  JsonValue::Object members;
  for (const auto field : object) members.push_back({std::string{field.key}, copy_of(field.value)});
  return {std::move(members)};
}

JsonValue copy_of_array(simdjson::dom::array array) {
  JsonValue::Array elements;
  for (const auto element : array) elements.push_back(copy_of(element));
  return {std::move(elements)};
}

// Recursion is bounded by kMaximumJsonDepth, which the parser has checked.
JsonValue copy_of(simdjson::dom::element element) {  // NOLINT(misc-no-recursion)
  using simdjson::dom::element_type;
  switch (element.type()) {
    case element_type::OBJECT:
      return copy_of_object(element.get_object().value_unsafe());
    case element_type::ARRAY:
      return copy_of_array(element.get_array().value_unsafe());
    case element_type::STRING:
      return {std::string{element.get_string().value_unsafe()}};
    case element_type::BOOL:
      return {element.get_bool().value_unsafe()};
    case element_type::INT64:
      return {element.get_int64().value_unsafe()};
    case element_type::UINT64:
      return {element.get_uint64().value_unsafe()};
    case element_type::DOUBLE:
      return {element.get_double().value_unsafe()};
    case element_type::NULL_VALUE:
      break;
  }
  return {nullptr};
}

/// The portable one (third-party.cmake says why); left to itself, simdjson would ask CPUID which.
void choose_implementation() {
  simdjson::get_active_implementation() = simdjson::get_available_implementations()["fallback"];
}

/// What is wrong with a document, in words for whoever wrote it.
std::string_view malformed(simdjson::error_code code) {
  switch (code) {
    case simdjson::UTF8_ERROR:
      return "it is not UTF-8 text";
    case simdjson::UNCLOSED_STRING:
      return "a string is not closed";
    case simdjson::UNESCAPED_CHARS:
      return "a string has a control character that is not escaped";
    case simdjson::STRING_ERROR:
      return "a string has a wrong escape sequence";
    case simdjson::NUMBER_ERROR:
      return "a number is malformed or beyond 64 bits";
    case simdjson::T_ATOM_ERROR:
    case simdjson::F_ATOM_ERROR:
    case simdjson::N_ATOM_ERROR:
      return "a word is neither true, false nor null";
    case simdjson::CAPACITY:
      return "it is longer than 4 GiB";
    default:
      return "a comma, colon, bracket, brace or quotation mark is missing or superfluous";
  }
}

// Recursion is as deep as the value, which for what was parsed is kMaximumJsonDepth.
void append(std::string& out, const JsonValue& value);

void append(std::string& out, const JsonValue::Array& array) {  // NOLINT(misc-no-recursion)
  out += '[';
  for (std::size_t i = 0; i < array.size(); ++i) {
    if (i > 0) out += ',';
    append(out, array[i]);
  }
  out += ']';
}

void append(std::string& out, const JsonValue::Object& object) {  // NOLINT(misc-no-recursion)
  out += '{';
  for (std::size_t i = 0; i < object.size(); ++i) {
    if (i > 0) out += ',';
    append_json_string(out, object[i].name);
    out += ':';
    append(out, object[i].value);
  }
  out += '}';
}

/// The shortest text that is read back as this number, and as no whole one.
void append(std::string& out, double number) {
  const std::size_t begin = out.size();
  fmt::format_to(std::back_inserter(out), "{}", number);
  if (out.find_first_of(".e", begin) == std::string::npos) out += ".0";
}

void append(std::string& out, const JsonValue& value) {  // NOLINT(misc-no-recursion)
  std::visit(
      [&out]<typename T>(const T& held) {
        if constexpr (std::is_same_v<T, std::nullptr_t>)
          out += "null";
        else if constexpr (std::is_same_v<T, bool>)
          out += held ? "true" : "false";
        else if constexpr (std::is_same_v<T, std::string>)
          append_json_string(out, held);
        else if constexpr (std::is_same_v<T, std::int64_t> || std::is_same_v<T, std::uint64_t>)
          fmt::format_to(std::back_inserter(out), "{}", held);
        else
          append(out, held);
      },
      value.data);
}

}  // namespace

Result<JsonValue> parse_json(std::string_view text, std::string_view what) {
  if (std::ranges::all_of(text, [](unsigned char c) { return std::isspace(c) != 0; })) {
    return fail(ErrorKind::InvalidArgument, "{} is empty, where a JSON object is needed", what);
  }
  choose_implementation();
  simdjson::dom::parser parser;
  auto error = parser.allocate(std::max<std::size_t>(text.size(), 64), kMaximumJsonDepth + 1);
  if (error != simdjson::SUCCESS) {
    return fail(ErrorKind::System, "{}: there is no memory for {} bytes of JSON", what, text.size());
  }
  simdjson::dom::element root;
  error = parser.parse(text.data(), text.size()).get(root);
  if (error == simdjson::DEPTH_ERROR) {
    return fail(ErrorKind::InvalidArgument, "{} is JSON nested more than {} deep", what, kMaximumJsonDepth);
  }
  if (error != simdjson::SUCCESS) {
    return fail(ErrorKind::InvalidArgument, "{} is not valid JSON: {}", what, malformed(error));
  }
  return copy_of(root);
}

std::string to_json(const JsonValue& value) {
  std::string text;
  append(text, value);
  return text;
}

}  // namespace mayfly
