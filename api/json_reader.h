#pragma once

#include "vmm/base/error.h"
#include "vmm/base/json_value.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

/// JSON from clients and configuration files, read into typed values with one sentence for each way to be wrong.
///
///   Result<BootSource> read_boot_source(const JsonValue& json, const std::string& where) {
///     JsonFields fields{json, where};
///     BootSource source{.kernel_image_path = fields.required("kernel_image_path", JsonPath{}),
///                       .initrd_path = fields.optional("initrd_path", JsonPath{}),
///                       .boot_args = fields.optional("boot_args", JsonString{.longest = kMaximumCommandLine})};
///     return fields.finish(std::move(source));   // the first failure; unknown and repeated fields come first
///   }
///
/// `where` is the place in the document as messages name it: "boot-source", "cpu-config.msr_modifiers[2]".
/// A reader of a value is anything callable as Result<T>(const JsonValue&, const std::string& where); functions such as
/// the one above and the small structs below alike, so readers nest. No thread-affinity; nothing here throws on input.
namespace mayfly {

/// What a value is, for messages: `a string ("two")`, `a number (-1)`, `an object`.
[[nodiscard]] std::string describe(const JsonValue& value);

/// `text` in double quotes, shortened to what a message can carry.
[[nodiscard]] std::string in_quotes(std::string_view text);

// Readers of single values.

struct JsonBool {
  [[nodiscard]] Result<bool> operator()(const JsonValue& value, const std::string& where) const;
};

/// A whole number within [lowest, highest].
struct JsonWhole {
  std::uint64_t lowest = 0;
  std::uint64_t highest = std::numeric_limits<std::int64_t>::max();
  [[nodiscard]] Result<std::uint64_t> operator()(const JsonValue& value, const std::string& where) const;
};

/// Text of at most `longest` bytes, without NUL characters: no field of the API can carry one.
struct JsonString {
  std::size_t longest = std::numeric_limits<std::size_t>::max();
  [[nodiscard]] Result<std::string> operator()(const JsonValue& value, const std::string& where) const;
};

/// Text that `good` approves of; messages say that it must be `rule`.
struct JsonChecked {
  bool (*good)(std::string_view) noexcept;
  std::string_view rule;
  [[nodiscard]] Result<std::string> operator()(const JsonValue& value, const std::string& where) const;
};

/// A path on the host: text that is not empty and no longer than the kernel takes.
struct JsonPath {
  [[nodiscard]] Result<std::string> operator()(const JsonValue& value, const std::string& where) const;
};

/// An object whose values are all strings.
struct JsonStringMap {
  [[nodiscard]] Result<std::map<std::string, std::string>> operator()(const JsonValue& value,
                                                                      const std::string& where) const;
};

/// An enumerator and its name in the dialect.
template <typename Enum>
struct JsonName {
  std::string_view name;
  Enum value;
};

/// Which of `names` the text is, as an index. Errors: not a string, none of them (the message lists `shown`).
[[nodiscard]] Result<std::size_t> read_json_name(const JsonValue& value, const std::string& where,
                                                 std::span<const std::string_view> names, std::size_t shown,
                                                 bool ignore_case);

/// One of a set of names.
template <typename Enum>
struct JsonEnum {
  std::span<const JsonName<Enum>> names;
  bool ignore_case = false;
  std::size_t aliases = 0;  ///< How many of `names`, at the end, are accepted but not shown.
  [[nodiscard]] Result<Enum> operator()(const JsonValue& value, const std::string& where) const {
    std::vector<std::string_view> texts;
    for (const auto& each : names) texts.push_back(each.name);
    auto index = read_json_name(value, where, texts, names.size() - aliases, ignore_case);
    if (!index) return propagate(index);
    return names[*index].value;
  }
};

/// The name of an enumerator in a table that has it.
template <typename Enum, std::size_t N>
[[nodiscard]] constexpr std::string_view json_name(const JsonName<Enum> (&names)[N], Enum value) {
  const auto found = std::ranges::find(names, value, &JsonName<Enum>::value);
  return found == std::end(names) ? std::string_view{} : found->name;
}

/// The elements of an array; error: not an array.
[[nodiscard]] Result<const JsonValue::Array*> read_json_array(const JsonValue& value, const std::string& where);

/// An array of what `element` reads.
template <typename Reader>
struct JsonArray {
  Reader element;
  using Element = std::invoke_result_t<Reader, const JsonValue&, const std::string&>::value_type;
  [[nodiscard]] Result<std::vector<Element>> operator()(const JsonValue& value, const std::string& where) const {
    auto array = read_json_array(value, where);
    if (!array) return propagate(array);
    std::vector<Element> elements;
    for (std::size_t i = 0; i < (*array)->size(); ++i) {
      auto read = element((**array)[i], fmt::format("{}[{}]", where, i));
      if (!read) return propagate(read);
      elements.push_back(std::move(*read));
    }
    return elements;
  }
};
template <typename Reader>
JsonArray(Reader) -> JsonArray<Reader>;

/// The fields of one object. Each is asked for once, by required() or optional(); finish() then refuses what was not
/// asked for. A field that is null counts as absent where it is optional, as the dialect's clients expect.
class JsonFields {
 public:
  JsonFields(const JsonValue& value, std::string where);

  /// The field's value; a default-made one after a failure, which finish() reports.
  template <typename Reader>
  auto required(std::string_view name, const Reader& read) {
    using Value = typename std::invoke_result_t<Reader, const JsonValue&, const std::string&>::value_type;
    const JsonValue* field = take(name, true);
    return field == nullptr ? Value{} : convert<Value>(name, *field, read).value_or(Value{});
  }

  /// The field's value; nullopt where it is absent, null, or after a failure.
  template <typename Reader>
  auto optional(std::string_view name, const Reader& read) {
    using Value = typename std::invoke_result_t<Reader, const JsonValue&, const std::string&>::value_type;
    const JsonValue* field = take(name, false);
    return field == nullptr ? std::optional<Value>{} : convert<Value>(name, *field, read);
  }

  /// The names that were not asked for, which finish() does not refuse then.
  [[nodiscard]] std::vector<std::string> ignore_unknown();

  /// A failure that the fields have together; ignored after an earlier one.
  void refuse(std::string message);

  /// The failure to report, if any: fields that are there twice, then unknown ones (a misspelt name explains a missing
  /// one), then the first failure of a value.
  [[nodiscard]] Status finish();
  template <typename T>
  [[nodiscard]] Result<T> finish(T value) {
    auto status = finish();
    if (!status) return propagate(status);
    return value;
  }

 private:
  const JsonValue* take(std::string_view name, bool required);

  template <typename Value, typename Reader>
  std::optional<Value> convert(std::string_view name, const JsonValue& field, const Reader& read) {
    if (failure_) return std::nullopt;
    auto value = read(field, fmt::format("{}.{}", where_, name));
    if (value) return std::optional<Value>{std::move(*value)};
    failure_ = std::move(value.error());
    return std::nullopt;
  }

  const JsonValue::Object* object_ = nullptr;  // null: the value is no object, and failure_ says so
  std::string where_;
  std::vector<std::string_view> known_;
  bool ignores_unknown_ = false;
  std::optional<Error> failure_;
};

}  // namespace mayfly
