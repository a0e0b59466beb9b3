#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

/// JSON for answers: a value at a time, into one string.
///
///   JsonWriter json;
///   json.begin_object();
///   json.field("id", id);
///   json.key("drives");
///   json.begin_array();
///   json.end_array();
///   json.end_object();
///   return std::move(json).take();   // {"id":"...","drives":[]}
///
/// The output is valid JSON whatever the strings hold: bytes that are not UTF-8 become U+FFFD.
namespace mayfly {

/// Appends `text` to `out` as a JSON string, quotation marks included.
void append_json_string(std::string& out, std::string_view text);

class JsonWriter {
 public:
  void begin_object() { open('{'); }
  void end_object() { close('}'); }
  void begin_array() { open('['); }
  void end_array() { close(']'); }
  /// The name of the value that is written next.
  void key(std::string_view name);
  void value(std::string_view text);
  void value(const char* text) { value(std::string_view{text}); }
  void value(bool truth);
  template <std::unsigned_integral Number>
  void value(Number number) {
    whole(number);
  }
  template <std::signed_integral Number>
  void value(Number number) {
    if (number >= 0) return whole(static_cast<std::uint64_t>(number));
    negative(number);
  }

  template <typename Value>
  void field(std::string_view name, const Value& of) {
    key(name);
    value(of);
  }

  [[nodiscard]] std::string take() && { return std::move(text_); }

 private:
  void open(char bracket);
  void close(char bracket);
  void separate();
  void whole(std::uint64_t number);
  void negative(std::int64_t number);

  std::string text_;
  bool first_ = true;  // nothing stands before the next value in its object or array
};

}  // namespace mayfly
