#pragma once

#include "vmm/base/error.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/// JSON as a value: documents of clients and of configuration files, and metadata for guests.
///
///   auto json = parse_json(body, "the body");
///   if (!json) return propagate(json);
///   const std::string text = to_json(*json);
///
/// Any thread.
namespace mayfly {

struct JsonMember;

/// One value of a document. Objects keep the order of the text, and fields that are there twice.
struct JsonValue {
  using Array = std::vector<JsonValue>;
  using Object = std::vector<JsonMember>;
  std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string, Array, Object> data;
};
struct JsonMember {
  std::string name;
  JsonValue value;
};

/// How deep objects and arrays may nest: metadata may as deep as Firecracker's parser takes them, and nothing else needs over
/// six levels. What is done to a value recurses as deep.
inline constexpr std::size_t kMaximumJsonDepth = 127;

/// Parses one document, which messages call `what` ("the body"). Errors (InvalidArgument): empty, malformed, too deep,
/// a number beyond 64 bits, text that is not UTF-8.
[[nodiscard]] Result<JsonValue> parse_json(std::string_view text, std::string_view what);

/// The value as JSON text without white space; parse_json() reads the same value from it.
[[nodiscard]] std::string to_json(const JsonValue& value);

}  // namespace mayfly
