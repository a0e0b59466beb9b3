#include "rootfs-tools/image/run_config.h"

#include "vmm/base/json_fields.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/printable.h"
#include "vmm/base/text.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace mayfly::image {
namespace {

constexpr std::uint64_t kLongestAccounts = std::uint64_t{1} << 20;
constexpr int kFirstRealTime = 34;  // SIGRTMIN of glibc and musl's programs is not the kernel's 32
constexpr int kLastSignal = 64;
constexpr std::string_view kS6Overlay = "s6-overlay";

constexpr std::array<std::pair<std::string_view, int>, 34> kSignals{{
    {"HUP", 1},   {"INT", 2},    {"QUIT", 3},    {"ILL", 4},   {"TRAP", 5},  {"ABRT", 6},  {"IOT", 6},
    {"BUS", 7},   {"FPE", 8},    {"KILL", 9},    {"USR1", 10}, {"SEGV", 11}, {"USR2", 12}, {"PIPE", 13},
    {"ALRM", 14}, {"TERM", 15},  {"STKFLT", 16}, {"CHLD", 17}, {"CLD", 17},  {"CONT", 18}, {"STOP", 19},
    {"TSTP", 20}, {"TTIN", 21},  {"TTOU", 22},   {"URG", 23},  {"XCPU", 24}, {"XFSZ", 25}, {"VTALRM", 26},
    {"PROF", 27}, {"WINCH", 28}, {"IO", 29},     {"POLL", 29}, {"PWR", 30},  {"SYS", 31},
}};

/// A file of the image, or nothing where it is none or too large to be what it is for.
Result<std::string> read_account_file(std::string_view path, FileTree& tree, const Spool& spool) {
  const Inode* const inode = tree.find(path);
  if (inode == nullptr || inode->kind != InodeKind::File) return std::string{};
  if (inode->data.size > kLongestAccounts)
    return fail(ErrorKind::TooLarge, "the image's {} has {} bytes, and {} are allowed", path, inode->data.size,
                kLongestAccounts);
  std::string text(inode->data.size, '\0');
  TRY(spool.read(inode->data, 0, std::as_writable_bytes(std::span{text})));
  return text;
}

Result<std::vector<ExposedPort>> read_ports(const JsonValue& config, std::string_view what) {
  const auto members = TRY(object_field(config, "ExposedPorts", what));
  std::vector<ExposedPort> ports;
  for (const JsonMember& each : members) {
    const std::size_t slash = std::min(each.name.find('/'), each.name.size());
    const auto protocol = slash < each.name.size() ? each.name.substr(slash + 1) : std::string{"tcp"};
    const auto number = whole_number<std::uint16_t>(std::string_view{each.name}.substr(0, slash));
    if (!number || *number == 0 || (protocol != "tcp" && protocol != "udp" && protocol != "sctp"))
      return fail(ErrorKind::InvalidArgument, "{}: the exposed port '{}' must be like 80/tcp; build the image anew",
                  what, printable(each.name, kLongestShownName));
    ports.push_back({.port = *number, .protocol = protocol});
  }
  std::ranges::sort(ports, {}, [](const ExposedPort& port) { return std::pair{port.port, port.protocol}; });
  return ports;
}

Result<std::vector<std::string>> read_volumes(const JsonValue& config, std::string_view what) {
  const auto members = TRY(object_field(config, "Volumes", what));
  std::vector<std::string> volumes;
  for (const JsonMember& each : members) {
    if (each.name.contains('\0'))
      return fail(ErrorKind::InvalidArgument, "{}: the volume '{}' must be without NUL; build the image anew", what,
                  printable(each.name, kLongestShownName));
    volumes.push_back(each.name);
  }
  return volumes;
}

/// An entrypoint that ends at once where it is not process 1; else empty.
std::string_view init_of(const RunConfig& run, FileTree& tree) {
  const auto& words = run.entrypoint.empty() ? run.command : run.entrypoint;
  if (words.empty()) return "";
  if (const Inode* const packages = tree.find("/package/admin"); words.front() == "/init" && packages != nullptr) {
    const auto found = packages->children.lower_bound(kS6Overlay);
    if (found != packages->children.end() && found->first.starts_with(kS6Overlay)) return kS6Overlay;
  }
  const Inode* const program = words.front().starts_with('/') ? tree.find(words.front()) : nullptr;
  const bool is_systemd = program != nullptr && program == tree.find("/lib/systemd/systemd");
  return is_systemd ? "systemd" : "";
}

}  // namespace

Result<int> signal_number(std::string_view text) {
  const auto unknown = [&] {
    return fail(ErrorKind::InvalidArgument, "the stop signal '{}' is unknown; give one like SIGTERM",
                printable(text, kLongestShownName));
  };
  if (const auto number = whole_number<int>(text)) {
    if (*number >= 1 && *number <= kLastSignal) return *number;
    return unknown();
  }
  // Engines ignore case, and write the name into the image as it was given.
  std::string upper{text};
  std::ranges::transform(upper, upper.begin(),
                         [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  std::string_view name = upper;
  if (name.starts_with("SIG")) name.remove_prefix(3);
  for (const auto& [known, number] : kSignals)
    if (known == name) return number;
  const bool from_last = name.starts_with("RTMAX");
  if (!from_last && !name.starts_with("RTMIN")) return unknown();
  name.remove_prefix(5);
  if (name.empty()) return from_last ? kLastSignal : kFirstRealTime;
  const auto distance = name.front() == (from_last ? '-' : '+') ? whole_number<int>(name.substr(1)) : std::nullopt;
  if (!distance || *distance < 0 || *distance > kLastSignal - kFirstRealTime) return unknown();
  return from_last ? kLastSignal - *distance : kFirstRealTime + *distance;
}

Result<RunConfig> read_run_config(std::string_view config, FileTree& tree, const Spool& spool, std::string_view what) {
  const auto json = TRY(parse_json(config, what));
  RunConfig run;
  const JsonValue* const section = TRY(field_of(json, "config", what));
  const JsonValue none{JsonValue::Object{}};
  const JsonValue& fields = section != nullptr ? *section : none;
  run.entrypoint = TRY(texts_field(fields, "Entrypoint", what));
  run.command = TRY(texts_field(fields, "Cmd", what));
  run.environment = TRY(texts_field(fields, "Env", what));
  for (const std::string& each : run.environment)
    if (const auto equals = each.find('='); equals == 0 || equals == std::string::npos)
      return fail(ErrorKind::InvalidArgument, "{}: the variable '{}' must be NAME=VALUE; build the image anew", what,
                  printable(each, kLongestShownName));
  run.user_text = TRY(text_field(fields, "User", what));
  if (auto directory = TRY(text_field(fields, "WorkingDir", what)); !directory.empty())
    run.working_directory = directory.starts_with('/') ? std::move(directory) : "/" + directory;
  if (const auto signal = TRY(text_field(fields, "StopSignal", what)); !signal.empty()) {
    auto number = signal_number(signal);
    if (!number) return propagate(number, what);
    run.stop_signal = *number;
  }
  run.ports = TRY(read_ports(fields, what));
  run.volumes = TRY(read_volumes(fields, what));
  run.init = init_of(run, tree);
  const auto passwd = TRY(read_account_file("/etc/passwd", tree, spool));
  const auto group = TRY(read_account_file("/etc/group", tree, spool));
  auto user = find_user(run.user_text, passwd, group);
  if (!user) return propagate(user, what);
  run.user = std::move(*user);
  return run;
}

std::string to_json(const RunConfig& config, const BaseIdentity& identity) {
  JsonWriter json;
  const auto list = [&](std::string_view name, const auto& values) {
    json.key(name);
    json.begin_array();
    for (const auto& each : values) json.value(each);
    json.end_array();
  };
  json.begin_object();
  json.field("version", 1U);
  json.key("image");
  json.begin_object();
  json.field("digest", identity.image_digest);
  json.field("config_digest", identity.config_digest);
  list("names", identity.names);
  json.field("platform", identity.platform);
  json.end_object();
  json.key("base");
  json.begin_object();
  json.field("format", "squashfs");
  json.field("digest", identity.base_digest);
  json.field("size_bytes", identity.base_bytes);
  json.end_object();
  list("entrypoint", config.entrypoint);
  list("cmd", config.command);
  list("env", config.environment);
  json.key("user");
  json.begin_object();
  json.field("name", config.user_text);
  json.field("uid", config.user.uid);
  json.field("gid", config.user.gid);
  list("additional_gids", config.user.groups);
  json.field("home", config.user.home);
  json.end_object();
  json.field("working_dir", config.working_directory);
  json.field("stop_signal", config.stop_signal);
  json.key("exposed_ports");
  json.begin_array();
  for (const ExposedPort& each : config.ports) {
    json.begin_object();
    json.field("port", each.port);
    json.field("protocol", each.protocol);
    json.end_object();
  }
  json.end_array();
  json.end_object();
  return std::move(json).take() + "\n";
}

}  // namespace mayfly::image
