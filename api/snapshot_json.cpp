#include "api/schema.h"
#include "vmm/config/device_names.h"
#include "vmm/memory/guest_memory.h"

#include <algorithm>

namespace mayfly {
namespace {

constexpr JsonName<bool> kSnapshotTypes[] = {{"Full", false}, {"Diff", true}};
constexpr JsonName<MemoryBackend> kBackends[] = {{"File", MemoryBackend::File}, {"Uffd", MemoryBackend::Uffd}};
constexpr JsonName<StatePaths> kStatePaths[] = {{"Trusted", StatePaths::Trusted}, {"Named", StatePaths::Named}};
/// "Snapshot" is what an absent field means.
constexpr JsonName<std::optional<HugePages>> kHugePagesOrSnapshot[] = {{"Snapshot", std::nullopt},
                                                                       {"None", HugePages::None},
                                                                       {"Transparent", HugePages::Transparent},
                                                                       {"2M", HugePages::Explicit2M}};
constexpr JsonChecked kId{.good = is_device_id, .rule = kDeviceIdRule};
constexpr JsonChecked kOverriddenTapName{.good = is_interface_name, .rule = kInterfaceNameRule};

struct Backend {
  MemoryBackend type = MemoryBackend::File;
  std::vector<std::string> paths;
};

Result<Backend> read_backend(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  Backend backend{.type = fields.required("backend_type", JsonEnum<MemoryBackend>{kBackends}), .paths = {}};
  auto one = fields.optional("backend_path", JsonPath{});
  auto several = fields.optional("backend_paths", JsonArray{JsonPath{}});
  if (one.has_value() == several.has_value())
    fields.refuse(fmt::format("{} needs exactly one of backend_path and backend_paths; {}", where,
                              one ? "leave backend_path out" : "give backend_path"));
  if (several && several->empty())
    fields.refuse(fmt::format("{}.backend_paths is empty; name the memory files, the base first", where));
  if (several && backend.type == MemoryBackend::Uffd)
    fields.refuse(
        fmt::format("{}.backend_paths is for memory files, and a page server gives all pages by one socket: "
                    "name that as backend_path",
                    where));
  backend.paths = several ? std::move(*several) : std::vector{std::move(one).value_or("")};
  return fields.finish(std::move(backend));
}

Result<NetworkOverride> read_network_override(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  NetworkOverride read{.iface_id = fields.required("iface_id", kId),
                       .host_dev_name = fields.required("host_dev_name", kOverriddenTapName),
                       .guest_mac = fields.optional("guest_mac", read_mac_address)};
  return fields.finish(std::move(read));
}

Result<DriveOverride> read_drive_override(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  DriveOverride read{.drive_id = fields.required("drive_id", kId),
                     .path_on_host = fields.required("path_on_host", JsonPath{}),
                     .base_paths = read_base_paths(fields, where)};
  return fields.finish(std::move(read));
}

Result<DriveOverride> read_new_overlay(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  DriveOverride read{.drive_id = fields.required("drive_id", kId),
                     .path_on_host = fields.required("path_on_host", JsonPath{}),
                     .base_paths = {}};
  return fields.finish(std::move(read));
}

Result<FrozenDrive> read_frozen_drive(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  FrozenDrive read{.drive_id = fields.required("drive_id", kId),
                   .path_on_host = fields.required("path_on_host", JsonPath{})};
  return fields.finish(std::move(read));
}

constexpr JsonName<bool> kWorkingSetModes[] = {{"Record", true}, {"Replay", false}};
/// A day.
constexpr JsonWhole kRecordingTime{.lowest = 1, .highest = 86'400'000};

Result<WorkingSetParams> read_working_set_params(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  WorkingSetParams read{.record = fields.required("mode", JsonEnum<bool>{kWorkingSetModes}),
                        .path = fields.required("path", JsonPath{}),
                        .until_boot_timer = fields.optional("until_boot_timer", JsonBool{}).value_or(false),
                        .for_ms = fields.optional("for_ms", kRecordingTime)};
  return fields.finish(std::move(read));
}

Result<bool> refuse_vsock(const JsonValue&, const std::string& where) {
  return fail(ErrorKind::InvalidArgument, "{} is not available: Mayfly has no vsock device; leave it out", where);
}

/// Two overrides of one device contradict each other.
template <typename Override>
void refuse_repeated(JsonFields& fields, const std::string& where, const std::vector<Override>& overrides,
                     std::string Override::* id) {
  for (std::size_t i = 0; i < overrides.size(); ++i)
    if (std::ranges::find(overrides.begin(), overrides.begin() + static_cast<std::ptrdiff_t>(i), overrides[i].*id,
                          id) != overrides.begin() + static_cast<std::ptrdiff_t>(i))
      fields.refuse(
          fmt::format("{}[{}] is for {} once more; name each device once", where, i, in_quotes(overrides[i].*id)));
}

/// An array of which each element is for another device; empty where it is absent.
template <typename Read, typename Element>
std::vector<Element> read_once_each(JsonFields& fields, const std::string& where, const char* name, Read read,
                                    std::string Element::* id) {
  auto all = fields.optional(name, JsonArray{read}).value_or(std::vector<Element>{});
  refuse_repeated(fields, fmt::format("{}.{}", where, name), all, id);
  return all;
}

}  // namespace

std::vector<FrozenDrive> read_frozen_drives(JsonFields& fields, const std::string& where) {
  return read_once_each(fields, where, "frozen_drives", read_frozen_drive, &FrozenDrive::drive_id);
}

std::vector<NetworkOverride> read_network_overrides(JsonFields& fields, const std::string& where) {
  return read_once_each(fields, where, "network_overrides", read_network_override, &NetworkOverride::iface_id);
}

std::vector<DriveOverride> read_drive_overrides(JsonFields& fields, const std::string& where) {
  return read_once_each(fields, where, "drive_overrides", read_drive_override, &DriveOverride::drive_id);
}

std::vector<DriveOverride> read_new_overlays(JsonFields& fields, const std::string& where) {
  return read_once_each(fields, where, "drive_overrides", read_new_overlay, &DriveOverride::drive_id);
}

Result<SnapshotCreateParams> read_snapshot_create(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  SnapshotCreateParams params{.snapshot_path = fields.required("snapshot_path", JsonPath{}),
                              .mem_file_path = fields.optional("mem_file_path", JsonPath{}).value_or(""),
                              .diff = fields.optional("snapshot_type", JsonEnum<bool>{kSnapshotTypes}).value_or(false),
                              .live = fields.optional("live", JsonBool{}).value_or(false)};
  params.frozen_drives = read_frozen_drives(fields, where);
  params.max_copied_mib = fields.optional("max_copied_mib", JsonWhole{1, GuestMemory::kMaximumSizeMib});
  return fields.finish(std::move(params));
}

Result<SnapshotLoadParams> read_snapshot_load(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  SnapshotLoadParams params;
  fields.optional("vsock_override", refuse_vsock);
  params.snapshot_path = fields.required("snapshot_path", JsonPath{});
  // The dialect has two ways to say it: an older and a newer one.
  const auto old_path = fields.optional("mem_file_path", JsonPath{});
  auto backend = fields.optional("mem_backend", read_backend);
  if (old_path.has_value() == backend.has_value())
    fields.refuse(fmt::format("{} needs exactly one of mem_backend and mem_file_path; {}", where,
                              old_path ? "leave mem_file_path out" : "give mem_backend"));
  params.backend = backend ? backend->type : MemoryBackend::File;
  params.backend_paths = backend ? std::move(backend->paths) : std::vector{old_path.value_or("")};
  const bool old_tracking = fields.optional("enable_diff_snapshots", JsonBool{}).value_or(false);
  params.track_dirty_pages = fields.optional("track_dirty_pages", JsonBool{}).value_or(false) || old_tracking;
  params.resume_vm = fields.optional("resume_vm", JsonBool{}).value_or(false);
  params.clock_realtime = fields.optional("clock_realtime", JsonBool{}).value_or(true);
  params.allow_changed_drives = fields.optional("allow_changed_drives", JsonBool{}).value_or(false);
  params.paths = fields.optional("paths", JsonEnum<StatePaths>{kStatePaths}).value_or(StatePaths::Trusted);
  params.huge_pages =
      fields.optional("huge_pages", JsonEnum<std::optional<HugePages>>{kHugePagesOrSnapshot}).value_or(std::nullopt);
  params.network_overrides = read_network_overrides(fields, where);
  params.drive_overrides = read_drive_overrides(fields, where);
  params.channel_overrides = read_channel_overrides(fields, where);
  params.working_set = fields.optional("working_set", read_working_set_params);
  params.revertible = fields.optional("revertible", JsonBool{}).value_or(false);
  if (params.revertible && params.backend != MemoryBackend::File)
    fields.refuse(
        fmt::format("{}.revertible is for memory of files, whose pages show again; leave it out with the page "
                    "server",
                    where));
  if (params.working_set && params.backend != MemoryBackend::File)
    fields.refuse(fmt::format("{}.working_set is for memory of a file; leave it out with the page server", where));
  return fields.finish(std::move(params));
}

Result<SnapshotRevertParams> read_snapshot_revert(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  return fields.finish(
      SnapshotRevertParams{.resume_vm = fields.optional("resume_vm", JsonBool{}).value_or(false),
                           .clock_realtime = fields.optional("clock_realtime", JsonBool{}).value_or(true)});
}

}  // namespace mayfly
