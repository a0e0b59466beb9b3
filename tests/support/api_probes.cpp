#include "tests/support/api_probes.h"

#include <algorithm>
#include <functional>
#include <utility>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

/// Fields of which one is there (or, of x-at-most-one-of, none), in the order in which they are described.
std::vector<std::string> alternatives_of(const JsonValue& schema, const char* rule = "x-exactly-one-of") {
  std::vector<std::string> names;
  if (const JsonValue* list = find(schema, rule))
    for (const JsonValue& each : std::get<JsonValue::Array>(list->data)) names.push_back(text_of(&each));
  return names;
}

/// The fields of a sample: all, and the first of those that exclude each other.
std::set<std::string> sample_fields(const JsonValue& schema) {
  std::set<std::string> names = names_of(find(schema, "properties"));
  for (const char* rule : {"x-exactly-one-of", "x-at-most-one-of"}) {
    const auto alternatives = alternatives_of(schema, rule);
    for (std::size_t i = 1; i < alternatives.size(); ++i) names.erase(alternatives[i]);
  }
  return names;
}

const JsonValue& field_of(const ApiDescription& description, const JsonValue& schema, const std::string& name) {
  return description.resolved(at(at(schema, "properties"), name));
}

/// The schema of an array's elements; null where any will do.
const JsonValue* items_of(const ApiDescription& description, const JsonValue& schema) {
  const JsonValue* items = find(schema, "items");
  return items == nullptr ? nullptr : &description.resolved(*items);
}

/// A value that a schema allows, as JSON.
std::string sample(const ApiDescription& description, const JsonValue& schema) {  // NOLINT(misc-no-recursion)
  const std::string type = text_of(find(schema, "type"));
  const std::string example = text_of(find(schema, "example"));
  if (type == "boolean") return "true";
  if (type == "integer") {
    const std::string least = text_of(find(schema, "minimum"));
    return !example.empty() ? example : !least.empty() ? least : "0";
  }
  if (type == "string") {
    const JsonValue* names = find(schema, "enum");
    if (names != nullptr) return '"' + text_of(std::get<JsonValue::Array>(names->data).data()) + '"';
    return '"' + (example.empty() ? "x" : example) + '"';
  }
  if (type == "array") {
    const JsonValue* items = items_of(description, schema);
    return items == nullptr ? "[]" : '[' + sample(description, *items) + ']';
  }
  EXPECT_EQ(type, "object");
  std::string members;
  for (const std::string& name : sample_fields(schema)) {
    members += fmt::format(R"({}"{}": {})", members.empty() ? "" : ", ", name,
                           sample(description, field_of(description, schema, name)));
  }
  return '{' + members + '}';
}

/// An object with samples of the fields `names`, but for one that is left out (an empty value) or has another value.
std::string object_of(const ApiDescription& description, const JsonValue& schema, const std::set<std::string>& names,
                      const std::string& field, const std::string& value) {
  std::string members;
  const auto add = [&](const std::string& name, const std::string& text) {
    members += fmt::format(R"({}"{}": {})", members.empty() ? "" : ", ", name, text);
  };
  for (const std::string& name : names)
    if (name != field) add(name, sample(description, field_of(description, schema, name)));
  if (!value.empty()) add(field, value);
  return '{' + members + '}';
}

/// The sample of an object with one field left out (an empty value), or with another value.
std::string altered_sample(const ApiDescription& description, const JsonValue& schema, const std::string& field,
                           const std::string& value) {
  return object_of(description, schema, sample_fields(schema), field, value);
}

/// An object with one field, and what it cannot do without: so what is within the field meets no rule about others.
std::string least_sample(const ApiDescription& description, const JsonValue& schema, const std::string& field,
                         const std::string& value) {
  std::set<std::string> names = texts_of(find(schema, "required"));
  const auto alternatives = alternatives_of(schema);
  if (!alternatives.empty() && std::ranges::find(alternatives, field) == alternatives.end())
    names.insert(alternatives.front());
  return object_of(description, schema, names, field, value);
}

/// Puts the text of a value into a body.
using Wrap = std::function<std::string(const std::string& value)>;

/// The probes of one operation.
class OperationProbes {
 public:
  OperationProbes(const ApiDescription& description, std::string method, const std::string& path,
                  const JsonValue& operation, std::vector<ApiProbe>& probes)
      : description_(description),
        probes_(probes),
        method_(std::move(method)),
        operation_(method_ + ' ' + path),
        success_(find(at(operation, "responses"), "200") != nullptr ? 200 : 204) {}

  /// Of GET and DELETE.
  void add_bare(const std::string& path) {
    path_ = path;
    allow("");
    refuse("{}", "takes no body");
  }

  void add_change(const std::string& path, const JsonValue& body) {
    const std::size_t brace = path.find('{');
    id_name_ = brace == std::string::npos ? "" : path.substr(brace + 1, path.size() - brace - 2);
    parent_ = path.substr(0, brace);
    path_ = parent_;
    if (!id_name_.empty()) path_ += text_of(find(field_of(description_, body, id_name_), "example"));
    add_object(body, [](const std::string& object) { return object; });
    for (const char* other : {"[]", "true", "1", R"("text")", "null"}) refuse(other, "must be a JSON object");
    for (const char* broken : {"{", "}", R"({"a" 1})", "{} {}", "{\"a\": \"\xFF\"}"}) refuse(broken, "not valid JSON");
    refuse("", "the body is empty");
    if (id_name_.empty()) return;
    const std::string right = sample(description_, body);
    path_ = parent_ + "another";
    refuse(right, id_name_ + " is ");
    path_ = parent_ + "a.b";
    refuse(right, "the id in the path must be ");
  }

  /// A method that no path has.
  void add_unknown_method() {
    probes_.push_back({.operation = operation_,
                       .method = "OPTIONS",
                       .path = path_,
                       .body = "",
                       .status = 400,
                       .says = "no such method here"});
  }

 private:
  void allow(std::string body) {
    probes_.push_back({.operation = operation_,
                       .method = method_,
                       .path = path_,
                       .body = std::move(body),
                       .status = success_,
                       .says = {}});
  }
  void refuse(std::string body, std::string says) {
    probes_.push_back({.operation = operation_,
                       .method = method_,
                       .path = path_,
                       .body = std::move(body),
                       .status = 400,
                       .says = std::move(says)});
  }

  void add_object(const JsonValue& schema, const Wrap& wrap) {  // NOLINT(misc-no-recursion): as deep as schemas
    allow(wrap(sample(description_, schema)));
    const std::string with_surplus = wrap(altered_sample(description_, schema, "surplus", "1"));
    const JsonValue* more = find(schema, "additionalProperties");
    if (text_of(more) == "true")
      allow(with_surplus);
    else if (more != nullptr)
      refuse(with_surplus, R"(["surplus"] must be )");
    else
      refuse(with_surplus, R"(has no field "surplus")");
    for (const std::string& name : names_of(find(schema, "properties"))) add_field(schema, name, wrap);
  }

  void add_field(const JsonValue& schema, const std::string& name, const Wrap& wrap) {  // NOLINT(misc-no-recursion)
    const JsonValue& field = field_of(description_, schema, name);
    const Wrap with = [&](const std::string& value) { return wrap(altered_sample(description_, schema, name, value)); };
    add_presence(schema, name, field, with);
    const std::string type = text_of(find(field, "type"));
    refuse(with(type == "boolean" ? "1" : "true"), name + " must be ");
    if (type == "integer") add_limits(name, field, with);
    if (type == "string") add_texts(name, field, with);
    const Wrap alone = [&](const std::string& value) { return wrap(least_sample(description_, schema, name, value)); };
    if (type == "array") add_elements(name, field, alone);
    if (type == "object") add_object(field, alone);
  }

  void add_presence(const JsonValue& schema, const std::string& name, const JsonValue& field, const Wrap& with) {
    const auto alternatives = alternatives_of(schema);
    if (texts_of(find(schema, "required")).contains(name)) {
      refuse(with(""), fmt::format(R"(needs the field "{}")", name));
      refuse(with("null"), name + " must be ");
    } else if (std::ranges::find(alternatives, name) != alternatives.end()) {
      const bool is_in_sample = name == alternatives.front();
      refuse(with(is_in_sample ? "" : sample(description_, field)), "needs exactly one of ");
    } else {
      allow(with(""));
      allow(with("null"));
    }
    // The value, and the field once more with the same.
    const std::string value = sample(description_, field);
    refuse(with(fmt::format(R"({0}, "{1}": {0})", value, name)), fmt::format(R"(has the field "{}" twice)", name));
  }

  void add_limits(const std::string& name, const JsonValue& field, const Wrap& with) {
    const std::string least = text_of(find(field, "minimum"));
    const std::string most = text_of(find(field, "maximum"));
    refuse(with(std::to_string(least.empty() ? -1 : std::stoll(least) - 1)), name + " must be from " + least);
    if (!most.empty()) {
      const std::string path = path_;
      if (name == id_name_) path_ = parent_ + most;
      allow(with(most));
      path_ = path;
      refuse(with(std::to_string(std::stoll(most) + 1)), "to " + most);
    }
    refuse(with("18446744073709551615"), name + " must be from " + least);
    refuse(with("1.5"), name + " must be a whole number");
    refuse(with(R"("1")"), name + " must be a whole number");
  }

  void add_texts(const std::string& name, const JsonValue& field, const Wrap& with) {
    refuse(with(R"("\u0000")"), name);
    for (const std::string& value : texts_of(find(field, "enum"))) allow(with('"' + value + '"'));
    if (find(field, "enum") != nullptr) refuse(with(R"("bogus")"), name);
    const std::string longest = text_of(find(field, "maxLength"));
    if (longest.empty()) return;
    allow(with('"' + std::string(std::stoul(longest), 'x') + '"'));
    refuse(with('"' + std::string(std::stoul(longest) + 1, 'x') + '"'), "at most " + longest);
  }

  void add_elements(const std::string& name, const JsonValue& field,
                    const Wrap& with) {  // NOLINT(misc-no-recursion)
    const JsonValue* items = items_of(description_, field);
    if (items == nullptr) {
      ASSERT_EQ(text_of(find(field, "maxItems")), "0") << name;
      refuse(with("[1]"), name);
      return;
    }
    refuse(with("[true]"), name + "[0] must be ");
    refuse(with(fmt::format("[{}, null]", sample(description_, *items))), name + "[1] must be ");
    if (text_of(find(*items, "type")) != "object") return;
    add_object(*items, [&](const std::string& value) { return with('[' + value + ']'); });
  }

  const ApiDescription& description_;
  std::vector<ApiProbe>& probes_;
  std::string method_;
  std::string operation_;
  int success_;
  std::string path_;
  std::string parent_;   // of a path that ends in an id
  std::string id_name_;  // the field that it is
};

}  // namespace

std::vector<ApiProbe> probes_of(const ApiDescription& description) {
  std::vector<ApiProbe> probes;
  for_each_operation(description, [&](const std::string& path, const std::string& method, const JsonValue& operation) {
    OperationProbes made{description, method, path, operation, probes};
    const JsonValue* body = description.body(operation);
    EXPECT_EQ(body == nullptr, method == "GET" || method == "DELETE") << path;
    if (body == nullptr)
      made.add_bare(path);
    else
      made.add_change(path, *body);
    made.add_unknown_method();
  });
  return probes;
}

}  // namespace mayfly::testing
