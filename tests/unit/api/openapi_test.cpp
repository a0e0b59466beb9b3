#include "api/config_file.h"
#include "api/requests.h"
#include "api/responses.h"
#include "tests/support/api_description.h"
#include "tests/support/files.h"
#include "tests/unit/api/answer_request.h"
#include "tests/unit/api/fake_target.h"
#include "tests/unit/api/parsed_requests.h"
#include "vmm/base/newest_bytes.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

/// Holds three together: api/openapi.yaml, what the server does (see also conformance_test.cpp), and the dialect, which
/// is data/dialect.json, trimmed from Firecracker's description. Before that file is made anew from a later version,
/// MAYFLY_DIALECT=FILE adds a test that compares with the published FILE itself.
namespace mayfly {
namespace {

using testing::ApiDescription;
using testing::at;
using testing::find;
using testing::for_each_operation;
using testing::names_of;
using testing::text_of;
using testing::texts_of;

// What Mayfly does otherwise than the dialect, on purpose.

/// Fields beyond the dialect's.
bool is_extra_field(const std::string& where) {
  return where.ends_with("/version GET.mayfly_version") || where.ends_with("/vm/config GET.serial") ||
         where.ends_with("/vm/config GET.channels") || where.ends_with(".channel_overrides") ||
         where.ends_with(".direct") || where.ends_with(".discard") || where.ends_with(".check_source_mac") ||
         where.ends_with(".drive_overrides") || where.ends_with(".allow_changed_drives") ||
         where.ends_with("snapshot/load PUT.paths") || where.ends_with(".working_set") ||
         where.ends_with(".backend_paths") || where.ends_with(".base_path") || where.ends_with(".base_paths") ||
         where.ends_with("snapshot/load PUT.revertible") || where.ends_with("snapshot/create PUT.live") ||
         where.ends_with("snapshot/create PUT.max_copied_mib") || where.ends_with("/serial PUT.max_bytes") ||
         where.ends_with("/logger PUT.max_bytes") || where.ends_with("/vm/config GET.logger.max_bytes") ||
         where.ends_with("snapshot/create PUT.frozen_drives") || where.ends_with("network_overrides.items.guest_mac");
}
/// Values beyond the dialect's.
std::set<std::string> extra_values(const std::string& where) {
  if (where.ends_with("/actions PUT.action_type")) return {"FinishWorkingSet"};
  return {};
}
/// What the dialect has devices for and Mayfly has not: first segments of paths, sections of the configuration.
constexpr std::array kAbsentDevices = {"balloon", "entropy", "hotplug", "memory-hotplug", "pmem", "vsock"};
/// Fields of the dialect that are refused: those of such devices, and vhost-user drives.
bool is_absent_field(const std::string& where) {
  return where.ends_with(".socket") || where.ends_with(".vsock_override") ||
         std::ranges::any_of(kAbsentDevices,
                             [&](const char* name) { return where == fmt::format("/vm/config GET.{}", name); });
}
bool is_absent_path(std::string_view path) {
  return std::ranges::any_of(kAbsentDevices, [&](std::string_view name) {
    const std::string_view below = path.substr(1);
    return below.substr(0, below.find('/')) == name;
  });
}
/// Without the dialect's socket, a drive needs its path.
bool is_stricter(const std::string& where) {
  return where == "/drives/{drive_id} PUT" || where.ends_with("drives.items");
}
/// A field that the dialect requires, and Mayfly does not.
bool is_optional_here(const std::string& where, const std::string& field) {
  return (where == "/snapshot/create PUT" && field == "mem_file_path") ||
         ((where == "/network-interfaces/{iface_id} PUT" || where.ends_with("network-interfaces.items")) &&
          field == "host_dev_name");
}
/// Sets of values that are smaller than the dialect's: nothing of Arm.
bool is_narrower(const std::string& where) {
  return where.ends_with(".cpu_template") || where.ends_with(".reg_modifiers") || where.ends_with(".vcpu_features");
}
/// Other defaults than the dialect's, by what was measured (vmm/README.md, "Page size").
std::string default_of(const std::string& where, const std::string& theirs) {
  return where.ends_with(".huge_pages") && theirs == "None" ? "Transparent" : theirs;
}
/// The dialect's description asks a PATCH for everything; its server does not.
bool is_more_lenient(const std::string& where) { return where == "/machine-config PATCH"; }
/// A field that the dialect requires, and that Mayfly has others in place of.
bool has_alternatives(const std::string& where, const std::string& field) {
  return where.ends_with(".mem_backend") && field == "backend_path";
}

void expect_same_schema(const ApiDescription& ours, const JsonValue& our_schema, const ApiDescription& dialect,
                        const JsonValue& dialect_schema, const std::string& where);

void expect_same_fields(const ApiDescription& ours, const JsonValue& our_schema, const ApiDescription& dialect,
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

void expect_same_schema(const ApiDescription& ours, const JsonValue& our_schema, const ApiDescription& dialect,
                        const JsonValue& dialect_schema, const std::string& where) {
  EXPECT_EQ(text_of(find(our_schema, "type")), text_of(find(dialect_schema, "type"))) << where;
  if (is_narrower(where)) return;
  auto values = texts_of(find(dialect_schema, "enum"));
  values.merge(extra_values(where));
  EXPECT_EQ(texts_of(find(our_schema, "enum")), values) << where;
  for (const std::string_view key : {"minimum", "maximum", "format", "default"}) {
    const JsonValue* theirs = find(dialect_schema, key);
    if (theirs != nullptr && !is_more_lenient(where.substr(0, where.find('.')))) {
      const std::string wanted = key == "default" ? default_of(where, text_of(theirs)) : text_of(theirs);
      EXPECT_EQ(text_of(find(our_schema, key)), wanted) << where << ' ' << key;
    }
  }
  if (!is_more_lenient(where)) {
    auto required = texts_of(find(dialect_schema, "required"));
    if (is_stricter(where)) required.insert("path_on_host");
    std::erase_if(required, [&](const std::string& field) {
      return has_alternatives(where, field) || is_optional_here(where, field);
    });
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

/// An operation of a device that Mayfly has not: it is refused in words, whatever the body.
void expect_absent(const std::string& path, const std::string& method) {
  std::string some = path;
  if (const std::size_t brace = some.find('{'); brace != std::string::npos) some.replace(brace, std::string::npos, "x");
  const auto call = parse_request({.method = method, .path = some, .body = method == "GET" ? "" : "{}"});
  ASSERT_FALSE(call) << method << ' ' << path;
  EXPECT_EQ(call.error().status, 400) << method << ' ' << path;
  EXPECT_NE(call.error().fault_message.find(": Mayfly has no "), std::string::npos) << call.error().fault_message;
  EXPECT_NE(call.error().fault_message.find(kDevicesThatExist), std::string::npos) << call.error().fault_message;
}

void expect_same_operation(const ApiDescription& ours, const JsonValue& mine, const ApiDescription& dialect,
                           const JsonValue& theirs, const std::string& where) {
  for (const std::string& status : names_of(find(theirs, "responses")))
    EXPECT_NE(find(at(mine, "responses"), status), nullptr) << where << ' ' << status;
  EXPECT_EQ(parameters_of(mine), parameters_of(theirs)) << where;
  for (const auto get : {&ApiDescription::body, &ApiDescription::answer}) {
    const JsonValue* their_schema = (dialect.*get)(theirs);
    const JsonValue* our_schema = (ours.*get)(mine);
    ASSERT_EQ(our_schema == nullptr, their_schema == nullptr) << where;
    if (their_schema != nullptr) expect_same_schema(ours, *our_schema, dialect, *their_schema, where);
  }
}

/// Every operation of the dialect is described as there, or is one of a device that Mayfly has not. How many there are.
std::size_t expect_same(const ApiDescription& ours, const ApiDescription& dialect) {
  std::size_t operations = 0;
  for_each_operation(dialect, [&](const std::string& path, const std::string& method, const JsonValue& theirs) {
    ++operations;
    if (is_absent_path(path)) return expect_absent(path, method);
    std::string lower = method;
    std::ranges::transform(lower, lower.begin(), [](char c) { return static_cast<char>(c - 'A' + 'a'); });
    expect_same_operation(ours, at(at(ours.paths(), path), lower), dialect, theirs, path + ' ' + method);
  });
  return operations;
}

TEST(OpenApi, DescribesWhatTheDialectDescribesOrSaysThatItIsNotThere) {
  EXPECT_GT(expect_same(ApiDescription::ours(), ApiDescription::dialect()), 30U);
}

// The page's list of what is equal, more or absent.

struct Differences {
  std::set<std::string> more, less;
};

void add_differences(const ApiDescription& ours, const JsonValue& our_schema, const ApiDescription& dialect,
                     const JsonValue& dialect_schema, const std::string& where, Differences& found) {
  const auto our_values = texts_of(find(our_schema, "enum"));
  const auto their_values = texts_of(find(dialect_schema, "enum"));
  std::ranges::set_difference(our_values, their_values, std::inserter(found.more, found.more.end()));
  std::ranges::set_difference(their_values, our_values, std::inserter(found.less, found.less.end()));
  const JsonValue* our_fields = find(our_schema, "properties");
  const JsonValue* their_fields = find(dialect_schema, "properties");
  const std::string below = where.empty() ? where : where + '.';
  for (const std::string& name : names_of(our_fields)) {
    const JsonValue* theirs = their_fields == nullptr ? nullptr : find(*their_fields, name);
    if (theirs == nullptr) {
      found.more.insert(below + name);
      continue;
    }
    add_differences(ours, ours.resolved(at(*our_fields, name)), dialect, dialect.resolved(*theirs), below + name,
                    found);
  }
  for (const std::string& name : names_of(their_fields))
    if (our_fields == nullptr || find(*our_fields, name) == nullptr) found.less.insert(below + name);
  const JsonValue* our_items = find(our_schema, "items");
  const JsonValue* their_items = find(dialect_schema, "items");
  if (our_items != nullptr && their_items != nullptr)
    add_differences(ours, ours.resolved(*our_items), dialect, dialect.resolved(*their_items), where, found);
}

std::string row_of(const std::string& operation, const Differences& found) {
  const auto words = [](const std::set<std::string>& all) {
    std::string text;
    for (const std::string& each : all) text += fmt::format("{}`{}`", text.empty() ? "" : ", ", each);
    return text.empty() ? text : text + ' ';
  };
  return fmt::format("| `{}` | {}| {}|\n", operation, words(found.more), words(found.less));
}

const JsonValue* operation_at(const ApiDescription& description, const std::string& path, const std::string& method) {
  const JsonValue* operations = find(description.paths(), path);
  std::string lower = method;
  std::ranges::transform(lower, lower.begin(), [](char c) { return static_cast<char>(c - 'A' + 'a'); });
  return operations == nullptr ? nullptr : find(*operations, lower);
}

/// A row an operation, in the paths' order.
std::string list_of_operations(const ApiDescription& ours, const ApiDescription& dialect) {
  std::map<std::string, std::string> rows;
  for_each_operation(ours, [&](const std::string& path, const std::string& method, const JsonValue& mine) {
    const JsonValue* theirs = operation_at(dialect, path, method);
    std::string& row = rows[path + ' ' + method];
    if (theirs == nullptr) {
      row = fmt::format("| `{} {}` | all of it | |\n", method, path);
      return;
    }
    Differences found;
    for (const auto get : {&ApiDescription::body, &ApiDescription::answer})
      if (const JsonValue* schema = (dialect.*get)(*theirs))
        add_differences(ours, *(ours.*get)(mine), dialect, *schema, "", found);
    row = row_of(fmt::format("{} {}", method, path), found);
  });
  for_each_operation(dialect, [&](const std::string& path, const std::string& method, const JsonValue&) {
    if (operation_at(ours, path, method) == nullptr)
      rows[path + ' ' + method] = fmt::format("| `{} {}` | | all of it |\n", method, path);
  });
  std::string list;
  for (const auto& [key, row] : rows) list += row;
  return list;
}

TEST(OpenApi, ThePageListsWhatIsEqualMoreOrAbsent) {
  const std::string list = list_of_operations(ApiDescription::ours(), ApiDescription::dialect());
  const std::string page = testing::content_of(testing::project_file("api/README.md"));
  EXPECT_TRUE(page.contains("| operation | more here | not here |\n| --- | --- | --- |\n" + list + '\n'))
      << "api/README.md needs these rows:\n"
      << list;
}

class PublishedDialect : public ::testing::TestWithParam<std::string> {};

TEST_P(PublishedDialect, IsDescribedOrSaidNotToBeThere) {
  EXPECT_GT(expect_same(ApiDescription::ours(), ApiDescription::published(GetParam())), 30U);
}

std::vector<std::string> published_dialects() {
  const char* path = std::getenv("MAYFLY_DIALECT");
  return path == nullptr ? std::vector<std::string>{} : std::vector<std::string>{path};
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(PublishedDialect);
INSTANTIATE_TEST_SUITE_P(Configured, PublishedDialect, ::testing::ValuesIn(published_dialects()));

/// The sections of a whole configuration.
std::set<std::string> sections_of(const ApiDescription& description) {
  const JsonValue* schema = description.answer(at(at(description.paths(), "/vm/config"), "get"));
  return schema == nullptr ? std::set<std::string>{} : names_of(find(*schema, "properties"));
}

TEST(OpenApi, AConfigurationFileMayHaveEverySectionThatIsDescribedHereOrInTheDialect) {
  std::set<std::string> sections = sections_of(ApiDescription::ours());
  sections.merge(sections_of(ApiDescription::dialect()));
  EXPECT_GT(sections.size(), 13U);
  for (const std::string& section : sections) {
    if (section == "boot-source") continue;
    const auto commands =
        config_commands(fmt::format(R"({{"boot-source": {{"kernel_image_path": "/k"}}, "{}": null}})", section));
    EXPECT_TRUE(commands) << section << ": " << commands.error().message;
  }
}

TEST(OpenApi, DescribesEveryRouteOfTheServerAndNoOther) {
  std::set<std::string> described;
  for_each_operation(ApiDescription::ours(), [&](const std::string& path, const std::string& method, const JsonValue&) {
    described.insert(method + ' ' + path);
  });
  std::set<std::string> served;
  for (const auto& [method, path] : api_routes()) served.insert(fmt::format("{} {}", method, path));
  EXPECT_EQ(described, served);
}

std::string type_of(const JsonValue& value) {
  if (std::holds_alternative<bool>(value.data)) return "boolean";
  if (std::holds_alternative<std::string>(value.data)) return "string";
  if (std::holds_alternative<JsonValue::Array>(value.data)) return "array";
  if (std::holds_alternative<JsonValue::Object>(value.data)) return "object";
  return "integer";
}

void expect_described(const ApiDescription& description, const JsonValue& schema, const JsonValue& value,
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
  void submit(Command command, Reply reply) override { std::move(reply).give(answer_to(std::move(command))); }
  Result<Answer> answer_to(Command command) {
    if (std::holds_alternative<GetInstanceInfo>(command)) return InstanceInfo{.id = "i", .state = MachineState::Paused};
    if (std::holds_alternative<GetMachineConfig>(command))
      return MachineConfig{.huge_pages = HugePages::Explicit2M, .cpu_template = CpuTemplate::T2};
    if (std::holds_alternative<GetMmds>(command)) return MmdsContents{R"({"anything": 1})"};
    if (std::holds_alternative<GetSnapshot>(command)) return SnapshotStatus{.is_written = true};
    if (std::holds_alternative<BranchVm>(command))
      return Branched{{{.id = "a", .api_socket = "/a", .pid = 7}, {.id = "b", .api_socket = "/b", .error = "none"}}};
    if (std::holds_alternative<GetMemoryMappings>(command)) return MemoryMappings{{MemoryMapping{}}};
    if (std::holds_alternative<GetMemory>(command)) return LookedAtPages{.resident = {1}, .empty = {1}};
    if (std::holds_alternative<GetDirtyMemory>(command)) return DirtyMemory{{1}};
    if (!std::holds_alternative<GetVmConfig>(command)) return PrometheusText{};
    VmConfig config;
    config.machine = {.huge_pages = HugePages::None, .cpu_template = CpuTemplate::T2};
    config.boot_source = BootSource{.kernel_image_path = "/k", .initrd_path = "/i", .boot_args = "a"};
    config.cpu = CpuConfig{.cpuid = {CpuidEdit{}}, .msrs = {MsrEdit{}}, .capabilities = {KvmCapabilityEdit{}}};
    config.serial =
        SerialConfig{.serial_out_path = "/s", .rate_limiter = TokenBucketConfig{}, .max_bytes = kLeastBound};
    const RateLimiterConfig limits{.bandwidth = TokenBucketConfig{}, .ops = TokenBucketConfig{}};
    const DriveConfig drive{"d",     "/d", {"/b"},         true,  true, "u", CacheType::Writeback,
                            "Async", true, Discard::Unmap, limits};
    config.drives = {drive, drive};
    config.drives.back().base_paths.emplace_back("/l");
    config.network_interfaces = {
        NetworkInterfaceConfig{"n", "t", MacAddress{2, 0, 0, 0, 0, 1}, std::uint16_t{1500}, true, limits, limits}};
    config.mmds = MmdsConfig{.network_interfaces = {"n"}};
    config.channels = {{.port = 1024, .uds_path = "/c", .listen = true}};
    config.logger = LoggerConfig{"/l", LogLevel::Off, true, true, "m"};
    config.metrics = MetricsConfig{"/m", true, {{"k", "v"}}};
    return config;
  }
};

TEST(OpenApi, TheServerAnswersAsDescribed) {
  const ApiDescription ours = ApiDescription::ours();
  WholeTarget target;
  for_each_operation(ours, [&](const std::string& path, const std::string& method, const JsonValue& operation) {
    const JsonValue* schema = ours.answer(operation);
    if (schema == nullptr) return;
    const std::string body =
        ours.body(operation) == nullptr ? "" : R"({"children": [{"id": "a", "api_socket": "/a"}]})";
    const ApiResponse response = answer_request({.method = method, .path = path, .body = body}, target);
    EXPECT_EQ(response.status, 200);
    const auto value = parse_json(response.body, path);
    ASSERT_TRUE(value) << value.error().message;
    expect_described(ours, *schema, *value, path);
    EXPECT_TRUE(std::ranges::all_of(names_of(find(*schema, "properties")),
                                    [&](const std::string& name) { return find(*value, name) != nullptr; }))
        << path << ' ' << response.body;
  });
}

}  // namespace
}  // namespace mayfly
