#include "api/requests.h"
#include "api/responses.h"
#include "tests/support/files.h"
#include "tests/unit/api/fake_target.h"
#include "tests/unit/api/yaml_subset.h"

#include <filesystem>
#include <set>

#include <gtest/gtest.h>

/// Holds three together: api/openapi.yaml, what the server does, and the dialect (data/dialect.json, trimmed from
/// Firecracker's description).
namespace mayfly {
namespace {

const std::filesystem::path kHere = std::filesystem::path{__FILE__}.parent_path();

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

/// A description in Swagger 2.0, whose scalars are strings.
class Description {
 public:
  explicit Description(JsonValue root) : root_(std::move(root)) {}
  static Description ours() {
    return Description{parse_yaml_subset(testing::content_of(kHere / "../../../api/openapi.yaml"))};
  }
  static Description dialect() {
    auto root = parse_json(testing::content_of(kHere / "data/dialect.json"), "dialect.json");
    EXPECT_TRUE(root) << root.error().message;
    return Description{root ? std::move(*root) : JsonValue{}};
  }

  [[nodiscard]] const JsonValue& paths() const { return at(root_, "paths"); }
  /// The schema, where it refers to a definition that one.
  [[nodiscard]] const JsonValue& resolved(const JsonValue& schema) const {
    const std::string reference = text_of(find(schema, "$ref"));
    if (reference.empty()) return schema;
    return at(at(root_, "definitions"), reference.substr(reference.rfind('/') + 1));
  }
  /// The schema of an operation's body; null where it has none.
  [[nodiscard]] const JsonValue* body(const JsonValue& operation) const {
    const JsonValue* parameters = find(operation, "parameters");
    if (parameters == nullptr) return nullptr;
    return &resolved(at(std::get<JsonValue::Array>(parameters->data).back(), "schema"));  // after those of the path
  }
  /// The schema of what a GET answers with; null where it has none.
  [[nodiscard]] const JsonValue* answer(const JsonValue& operation) const {
    const JsonValue* ok = find(at(operation, "responses"), "200");
    const JsonValue* schema = ok == nullptr ? nullptr : find(*ok, "schema");
    return schema == nullptr ? nullptr : &resolved(*schema);
  }

 private:
  JsonValue root_;
};

// What Mayfly does otherwise than the dialect, on purpose.

/// Fields beyond the dialect's.
bool is_extra_field(const std::string& where) {
  return where.ends_with("/version GET.mayfly_version") || where.ends_with("/vm/config GET.serial") ||
         where.ends_with(".direct") || where.ends_with(".check_source_mac") || where.ends_with(".drive_overrides") ||
         where.ends_with(".allow_changed_drives") || where.ends_with(".working_set");
}
/// Values beyond the dialect's.
std::set<std::string> extra_values(const std::string& where) {
  if (where.ends_with("/actions PUT.action_type")) return {"FinishWorkingSet"};
  return {};
}
/// Fields of the dialect that are refused: vhost-user drives, vsock devices.
bool is_absent_field(const std::string& where) {
  return where.ends_with(".socket") || where.ends_with(".vsock_override");
}
/// Without the dialect's socket, a drive needs its path.
bool is_stricter(const std::string& where) {
  return where == "/drives/{drive_id} PUT" || where.ends_with("drives.items");
}
/// Sets of values that are smaller than the dialect's: no static templates; nothing of Arm.
bool is_narrower(const std::string& where) {
  return where.ends_with(".cpu_template") || where.ends_with(".reg_modifiers") || where.ends_with(".vcpu_features");
}
/// The dialect's description asks a PATCH for everything; its server does not.
bool is_more_lenient(const std::string& where) { return where == "/machine-config PATCH"; }

void expect_same_schema(const Description& ours, const JsonValue& our_schema, const Description& dialect,
                        const JsonValue& dialect_schema, const std::string& where);

void expect_same_fields(const Description& ours, const JsonValue& our_schema, const Description& dialect,
                        const JsonValue& dialect_schema, const std::string& where) {
  const JsonValue* fields = find(dialect_schema, "properties");
  for (const std::string& name : names_of(fields)) {
    const JsonValue* our_field = find(at(our_schema, "properties"), name);
    if (is_absent_field(where + '.' + name)) {
      EXPECT_EQ(our_field, nullptr) << where << '.' << name;
      continue;
    }
    EXPECT_NE(our_field, nullptr) << where << " lacks " << name;
    if (our_field == nullptr) continue;
    expect_same_schema(ours, ours.resolved(*our_field), dialect, dialect.resolved(at(*fields, name)),
                       where + '.' + name);
  }
  for (const std::string& name : names_of(find(our_schema, "properties"))) {
    EXPECT_TRUE(find(at(dialect_schema, "properties"), name) != nullptr || is_extra_field(where + '.' + name))
        << where << '.' << name << " is not in the dialect";
  }
}

void expect_same_schema(const Description& ours, const JsonValue& our_schema, const Description& dialect,
                        const JsonValue& dialect_schema, const std::string& where) {
  EXPECT_EQ(text_of(find(our_schema, "type")), text_of(find(dialect_schema, "type"))) << where;
  if (is_narrower(where)) return;
  auto values = texts_of(find(dialect_schema, "enum"));
  values.merge(extra_values(where));
  EXPECT_EQ(texts_of(find(our_schema, "enum")), values) << where;
  for (const std::string_view key : {"minimum", "maximum", "format", "default"}) {
    const JsonValue* theirs = find(dialect_schema, key);
    if (theirs != nullptr && !is_more_lenient(where.substr(0, where.find('.')))) {
      EXPECT_EQ(text_of(find(our_schema, key)), text_of(theirs)) << where << ' ' << key;
    }
  }
  if (!is_more_lenient(where)) {
    auto required = texts_of(find(dialect_schema, "required"));
    if (is_stricter(where)) required.insert("path_on_host");
    EXPECT_EQ(texts_of(find(our_schema, "required")), required) << where;
  }
  if (find(dialect_schema, "properties") != nullptr) {
    expect_same_fields(ours, our_schema, dialect, dialect_schema, where);
  }
  for (const std::string_view key : {"items", "additionalProperties"}) {
    const JsonValue* theirs = find(dialect_schema, key);
    if (theirs == nullptr) continue;
    expect_same_schema(ours, ours.resolved(at(our_schema, key)), dialect, dialect.resolved(*theirs),
                       fmt::format("{}.{}", where, key));
  }
}

/// Calls `visit` with "/path METHOD" and the operation, for each.
template <typename Visit>
void for_each_operation(const Description& description, const Visit& visit) {
  for (const auto& [path, methods] : std::get<JsonValue::Object>(description.paths().data)) {
    for (const auto& [method, operation] : std::get<JsonValue::Object>(methods.data)) {
      std::string upper = method;
      std::ranges::transform(upper, upper.begin(), [](char c) { return static_cast<char>(c - 'a' + 'A'); });
      visit(path, upper, operation);
    }
  }
}

/// The parameters of an operation, each as "where it stands, its name, whether it is required".
std::set<std::string> parameters_of(const JsonValue& operation) {
  std::set<std::string> texts;
  const JsonValue* parameters = find(operation, "parameters");
  if (parameters == nullptr) return texts;
  for (const JsonValue& each : std::get<JsonValue::Array>(parameters->data))
    texts.insert(fmt::format("{} {} {}", text_of(find(each, "in")), text_of(find(each, "name")),
                             text_of(find(each, "required"))));
  return texts;
}

TEST(OpenApi, DescribesWhatTheDialectDescribes) {
  const Description ours = Description::ours();
  const Description dialect = Description::dialect();
  for_each_operation(dialect, [&](const std::string& path, const std::string& method, const JsonValue& theirs) {
    const std::string where = path + ' ' + method;
    std::string lower = method;
    std::ranges::transform(lower, lower.begin(), [](char c) { return static_cast<char>(c - 'A' + 'a'); });
    const JsonValue& mine = at(at(ours.paths(), path), lower);
    for (const std::string& status : names_of(find(theirs, "responses"))) {
      EXPECT_NE(find(at(mine, "responses"), status), nullptr) << where << ' ' << status;
    }
    EXPECT_EQ(parameters_of(mine), parameters_of(theirs)) << where;
    for (const auto get : {&Description::body, &Description::answer}) {
      const JsonValue* their_schema = (dialect.*get)(theirs);
      const JsonValue* our_schema = (ours.*get)(mine);
      ASSERT_EQ(our_schema == nullptr, their_schema == nullptr) << where;
      if (their_schema != nullptr) expect_same_schema(ours, *our_schema, dialect, *their_schema, where);
    }
  });
}

TEST(OpenApi, DescribesEveryRouteOfTheServerAndNoOther) {
  std::set<std::string> described;
  for_each_operation(Description::ours(), [&](const std::string& path, const std::string& method, const JsonValue&) {
    described.insert(method + ' ' + path);
  });
  std::set<std::string> served;
  for (const auto& [method, path] : api_routes()) served.insert(fmt::format("{} {}", method, path));
  EXPECT_EQ(described, served);
}

/// Fields of which exactly one is there, in the order in which they are described.
std::vector<std::string> alternatives_of(const JsonValue& schema) {
  std::vector<std::string> names;
  if (const JsonValue* list = find(schema, "x-exactly-one-of"))
    for (const JsonValue& each : std::get<JsonValue::Array>(list->data)) names.push_back(text_of(&each));
  return names;
}

/// The fields of a sample: all, and the first of those that exclude each other.
std::set<std::string> sample_fields(const JsonValue& schema) {
  std::set<std::string> names = names_of(find(schema, "properties"));
  const auto alternatives = alternatives_of(schema);
  for (std::size_t i = 1; i < alternatives.size(); ++i) names.erase(alternatives[i]);
  return names;
}

/// A value that a schema allows, as JSON.
std::string sample(const Description& description, const JsonValue& schema) {
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
    const JsonValue* items = find(schema, "items");
    return items == nullptr ? "[]" : '[' + sample(description, description.resolved(*items)) + ']';
  }
  EXPECT_EQ(type, "object");
  std::string members;
  for (const std::string& name : sample_fields(schema)) {
    members += fmt::format(R"({}"{}": {})", members.empty() ? "" : ", ", name,
                           sample(description, description.resolved(at(at(schema, "properties"), name))));
  }
  return '{' + members + '}';
}

/// The sample of an object with one field left out, or with another value.
std::string altered_sample(const Description& description, const JsonValue& schema, std::string_view field,
                           const std::string& value) {
  std::string members;
  for (const std::string& name : sample_fields(schema)) {
    if (name == field && value.empty()) continue;
    members += fmt::format(
        R"({}"{}": {})", members.empty() ? "" : ", ", name,
        name == field ? value : sample(description, description.resolved(at(at(schema, "properties"), name))));
  }
  if (value.empty() || sample_fields(schema).contains(std::string{field})) return '{' + members + '}';
  return fmt::format(R"({{{}{}"{}": {}}})", members, members.empty() ? "" : ", ", field, value);
}

/// A described path with an id in it: the one that samples of its body have.
std::string with_sample_id(const Description& description, std::string path, const JsonValue& body) {
  const std::size_t brace = path.find('{');
  if (brace == std::string::npos) return path;
  const std::string name = path.substr(brace + 1, path.size() - brace - 2);
  return path.substr(0, brace) + text_of(find(description.resolved(at(at(body, "properties"), name)), "example"));
}

/// Every body that the description allows or forbids, put to the server; `wrap` puts an object's text into a body.
template <typename Wrap>
class Prober {
 public:
  Prober(const Description& description, std::string path, std::string method, Wrap wrap)
      : description_(description), path_(std::move(path)), method_(std::move(method)), wrap_(std::move(wrap)) {}

  void probe(const JsonValue& schema) const {
    accepts(sample(description_, schema));
    const std::string with_surplus = altered_sample(description_, schema, "surplus", "1");
    if (text_of(find(schema, "additionalProperties")) == "true")
      accepts(with_surplus);
    else
      refuses(with_surplus, R"(has no field "surplus")");
    for (const std::string& name : names_of(find(schema, "properties"))) {
      probe_field(schema, name, description_.resolved(at(at(schema, "properties"), name)));
    }
  }

 private:
  [[nodiscard]] auto call(const std::string& object) const {
    return parse_request({.method = method_, .path = path_, .body = wrap_(object)});
  }
  void accepts(const std::string& object) const {
    const auto made = call(object);
    EXPECT_TRUE(made) << method_ << ' ' << path_ << ' ' << object << ": " << made.error().fault_message;
  }
  void refuses(const std::string& object, const std::string& because) const {
    const auto made = call(object);
    ASSERT_FALSE(made) << method_ << ' ' << path_ << ' ' << object;
    EXPECT_EQ(made.error().status, 400);
    EXPECT_NE(made.error().fault_message.find(because), std::string::npos)
        << object << ": " << made.error().fault_message;
  }

  void probe_field(const JsonValue& schema, const std::string& name, const JsonValue& field) const {
    const auto with = [&](const std::string& value) { return altered_sample(description_, schema, name, value); };
    if (texts_of(find(schema, "required")).contains(name)) {
      refuses(with(""), fmt::format(R"(needs the field "{}")", name));
      refuses(with("null"), name + " must be ");
    } else if (const auto alternatives = alternatives_of(schema); std::ranges::count(alternatives, name) != 0) {
      const bool is_in_sample = name == alternatives.front();
      if (is_in_sample) refuses(with(""), "needs exactly one of ");
      if (!is_in_sample) refuses(with(sample(description_, field)), "needs exactly one of ");
    } else {
      accepts(with(""));
      accepts(with("null"));
    }
    const std::string type = text_of(find(field, "type"));
    refuses(with(type == "boolean" ? "1" : "true"), name + " must be ");
    if (type == "integer") probe_limits(name, field, with);
    for (const std::string& value : texts_of(find(field, "enum"))) accepts(with('"' + value + '"'));
    if (find(field, "enum") != nullptr) refuses(with(R"("bogus")"), name);
    const std::string longest = text_of(find(field, "maxLength"));
    if (!longest.empty()) {
      accepts(with('"' + std::string(std::stoul(longest), 'x') + '"'));
      refuses(with('"' + std::string(std::stoul(longest) + 1, 'x') + '"'), "at most " + longest);
    }
  }

  template <typename With>
  void probe_limits(const std::string& name, const JsonValue& field, const With& with) const {
    const std::string least = text_of(find(field, "minimum"));
    const std::string most = text_of(find(field, "maximum"));
    if (!least.empty()) refuses(with(std::to_string(std::stoll(least) - 1)), name + " must be from " + least);
    if (!most.empty()) accepts(with(most));
    if (!most.empty()) refuses(with(std::to_string(std::stoll(most) + 1)), "to " + most);
    refuses(with("1.5"), name + " must be a whole number");
  }

  const Description& description_;
  std::string path_;
  std::string method_;
  Wrap wrap_;
};

template <typename Wrap>
void probe(const Description& description, const std::string& path, const std::string& method, const JsonValue& schema,
           Wrap wrap) {
  Prober<Wrap>{description, path, method, std::move(wrap)}.probe(schema);
}

TEST(OpenApi, TheServerTakesWhatIsDescribedAndNothingElse) {
  const Description ours = Description::ours();
  for_each_operation(ours, [&](const std::string& path, const std::string& method, const JsonValue& operation) {
    const JsonValue* body = ours.body(operation);
    EXPECT_EQ(body == nullptr, method == "GET") << path;
    if (body == nullptr) return;
    probe(ours, with_sample_id(ours, path, *body), method, *body, [](const std::string& object) { return object; });
  });
}

TEST(OpenApi, TheServerTakesNestedObjectsAsDescribed) {
  const Description ours = Description::ours();
  const auto definition = [&](std::string_view name) -> const JsonValue& {
    return ours.resolved(JsonValue{JsonValue::Object{{"$ref", {fmt::format("#/definitions/{}", name)}}}});
  };
  probe(ours, "/serial", "PUT", definition("TokenBucket"),
        [](const std::string& object) { return fmt::format(R"({{"rate_limiter": {}}})", object); });
  probe(ours, "/cpu-config", "PUT", definition("MsrModifier"),
        [](const std::string& object) { return fmt::format(R"({{"msr_modifiers": [{}]}})", object); });
  probe(ours, "/cpu-config", "PUT", definition("CpuidLeafModifier"),
        [](const std::string& object) { return fmt::format(R"({{"cpuid_modifiers": [{}]}})", object); });
  for (const auto& [definition_name, field] :
       {std::pair{"NetworkOverride", "network_overrides"}, std::pair{"DriveOverride", "drive_overrides"}})
    probe(ours, "/snapshot/load", "PUT", definition(definition_name), [field](const std::string& object) {
      return fmt::format(R"({{"snapshot_path": "s", "mem_file_path": "m", "{}": [{}]}})", field, object);
    });
  probe(ours, "/snapshot/load", "PUT", definition("WorkingSet"), [](const std::string& object) {
    return fmt::format(R"({{"snapshot_path": "s", "mem_file_path": "m", "working_set": {}}})", object);
  });
  probe(ours, "/snapshot/load", "PUT", definition("MemoryBackend"), [](const std::string& object) {
    return fmt::format(R"({{"snapshot_path": "s", "mem_backend": {}}})", object);
  });
  probe(ours, "/cpu-config", "PUT", definition("CpuidRegisterModifier"), [](const std::string& object) {
    return fmt::format(R"({{"cpuid_modifiers": [{{"leaf": "1", "subleaf": "0", "flags": 0, "modifiers": [{}]}}]}})",
                       object);
  });
}

TEST(OpenApi, TheServerTakesLimitsOfDrivesAndInterfacesAsDescribed) {
  struct Place {
    std::string_view path;
    std::string_view method;
    std::string_view fields;
    std::string_view limiter;
  };
  const std::vector<Place> places = {
      {"/drives/d", "PUT", R"("drive_id": "d", "path_on_host": "/d", "is_root_device": true)", "rate_limiter"},
      {"/drives/d", "PATCH", R"("drive_id": "d")", "rate_limiter"},
      {"/network-interfaces/n", "PUT", R"("iface_id": "n", "host_dev_name": "t")", "rx_rate_limiter"},
      {"/network-interfaces/n", "PUT", R"("iface_id": "n", "host_dev_name": "t")", "tx_rate_limiter"},
      {"/network-interfaces/n", "PATCH", R"("iface_id": "n")", "rx_rate_limiter"},
      {"/network-interfaces/n", "PATCH", R"("iface_id": "n")", "tx_rate_limiter"}};
  const Description ours = Description::ours();
  const JsonValue limiter{JsonValue::Object{{"$ref", {"#/definitions/RateLimiter"}}}};
  const JsonValue bucket{JsonValue::Object{{"$ref", {"#/definitions/TokenBucket"}}}};
  for (const Place& place : places) {
    const auto wrap = [&](const std::string& object) {
      return fmt::format(R"({{{}, "{}": {}}})", place.fields, place.limiter, object);
    };
    probe(ours, std::string{place.path}, std::string{place.method}, ours.resolved(limiter), wrap);
    for (const std::string_view name : {"bandwidth", "ops"})
      probe(ours, std::string{place.path}, std::string{place.method}, ours.resolved(bucket),
            [&](const std::string& object) { return wrap(fmt::format(R"({{"{}": {}}})", name, object)); });
  }
}

std::string type_of(const JsonValue& value) {
  if (std::holds_alternative<bool>(value.data)) return "boolean";
  if (std::holds_alternative<std::string>(value.data)) return "string";
  if (std::holds_alternative<JsonValue::Array>(value.data)) return "array";
  if (std::holds_alternative<JsonValue::Object>(value.data)) return "object";
  return "integer";
}

void expect_described(const Description& description, const JsonValue& schema, const JsonValue& value,
                      const std::string& where) {
  EXPECT_EQ(type_of(value), text_of(find(schema, "type"))) << where;
  const auto names = texts_of(find(schema, "enum"));
  EXPECT_TRUE(names.empty() || names.contains(text_of(&value))) << where << ' ' << text_of(&value);
  for (const std::string& name : texts_of(find(schema, "required"))) EXPECT_NE(find(value, name), nullptr) << where;
  if (const JsonValue* items = find(schema, "items")) {
    for (const JsonValue& item : std::get<JsonValue::Array>(value.data))
      expect_described(description, description.resolved(*items), item, where + "[]");
  }
  const JsonValue* fields = find(schema, "properties");
  if (fields == nullptr) return;
  for (const auto& [name, member] : std::get<JsonValue::Object>(value.data)) {
    expect_described(description, description.resolved(at(*fields, name)), member, fmt::format("{}.{}", where, name));
  }
}

/// A machine where everything is configured.
class WholeTarget : public CommandTarget {
 public:
  Result<Answer> execute(Command command) override {
    if (std::holds_alternative<GetInstanceInfo>(command)) return InstanceInfo{.id = "i", .state = MachineState::Paused};
    if (std::holds_alternative<GetMachineConfig>(command)) return MachineConfig{.huge_pages = HugePages::Transparent};
    if (std::holds_alternative<GetMmds>(command)) return MmdsContents{R"({"anything": 1})"};
    if (!std::holds_alternative<GetVmConfig>(command)) return PrometheusText{};
    VmConfig config;
    config.boot_source = BootSource{.kernel_image_path = "/k", .initrd_path = "/i", .boot_args = "a"};
    config.cpu = CpuConfig{.cpuid = {CpuidEdit{}}, .msrs = {MsrEdit{}}, .capabilities = {KvmCapabilityEdit{}}};
    config.serial = SerialConfig{.serial_out_path = "/s", .rate_limiter = TokenBucketConfig{}};
    const RateLimiterConfig limits{.bandwidth = TokenBucketConfig{}, .ops = TokenBucketConfig{}};
    config.drives = {DriveConfig{"d", "/d", true, true, "u", CacheType::Writeback, "Async", true, limits}};
    config.network_interfaces = {
        NetworkInterfaceConfig{"n", "t", MacAddress{2, 0, 0, 0, 0, 1}, std::uint16_t{1500}, true, limits, limits}};
    config.mmds = MmdsConfig{.network_interfaces = {"n"}};
    config.logger = LoggerConfig{"/l", LogLevel::Off, true, true, "m"};
    config.metrics = MetricsConfig{"/m", true, {{"k", "v"}}};
    return config;
  }
};

TEST(OpenApi, TheServerAnswersAsDescribed) {
  const Description ours = Description::ours();
  WholeTarget target;
  for_each_operation(ours, [&](const std::string& path, const std::string& method, const JsonValue& operation) {
    const JsonValue* schema = ours.answer(operation);
    if (schema == nullptr) return;
    const ApiResponse response = answer_request({.method = method, .path = path, .body = ""}, target);
    EXPECT_EQ(response.status, 200);
    const auto value = parse_json(response.body, path);
    ASSERT_TRUE(value) << value.error().message;
    expect_described(ours, *schema, *value, path);
    EXPECT_TRUE(std::ranges::all_of(names_of(find(*schema, "properties")),
                                    [&](const std::string& name) {
                                      return find(*value, name) != nullptr ||
                                             name == "cpu_template";  // told only where it is another than None
                                    }))
        << path << ' ' << response.body;
  });
}

}  // namespace
}  // namespace mayfly
