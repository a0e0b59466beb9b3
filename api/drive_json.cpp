#include "api/schema.h"
#include "vmm/config/device_names.h"

#include <algorithm>

namespace mayfly {
namespace {

constexpr JsonName<CacheType> kCacheTypes[] = {{"Unsafe", CacheType::Unsafe}, {"Writeback", CacheType::Writeback}};
constexpr JsonName<Discard> kDiscards[] = {{"Ignore", Discard::Ignore}, {"Unmap", Discard::Unmap}};
/// Kept by name: they differ only in what clients are shown.
constexpr JsonName<std::string_view> kIoEngines[] = {{"Sync", "Sync"}, {"Async", "Async"}};

constexpr JsonChecked kDriveId{.good = is_device_id, .rule = kDeviceIdRule};

/// It becomes a word of the kernel's command line, so nothing may end the word. Linux takes a GUID or an NT disk
/// signature with a partition's number, and "/PARTNROFF=n" after them.
bool is_partuuid(std::string_view text) noexcept {
  constexpr std::size_t kLongest = 64;
  constexpr std::string_view kLetters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_/=";
  return !text.empty() && text.size() <= kLongest && text.find_first_not_of(kLetters) == std::string_view::npos;
}
constexpr JsonChecked kPartuuid{.good = is_partuuid, .rule = "a partition's UUID, such as \"0eaa91a0-01\""};

Result<bool> refuse_socket(const JsonValue&, const std::string& where) {
  return fail(ErrorKind::InvalidArgument,
              "{} is not available: Mayfly has no vhost-user drives; leave it out and give path_on_host", where);
}

std::string owned(std::string_view text) { return std::string{text}; }

}  // namespace

std::vector<std::string> read_base_paths(JsonFields& fields, const std::string& where) {
  auto one = fields.optional("base_path", JsonPath{});
  auto several = fields.optional("base_paths", JsonArray{JsonPath{}});
  if (one && several) fields.refuse(fmt::format("{} has base_path and base_paths; leave one of them out", where));
  if (several && several->empty())
    fields.refuse(fmt::format("{}.base_paths is empty; name the layers, the raw image first, or leave it out", where));
  if (one) return {std::move(*one)};
  return std::move(several).value_or(std::vector<std::string>{});
}

Result<DriveConfig> read_drive(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  DriveConfig drive;
  fields.optional("socket", refuse_socket);  // first: whoever gives it gives no path_on_host
  drive.drive_id = fields.required("drive_id", kDriveId);
  drive.path_on_host = fields.required("path_on_host", JsonPath{});
  drive.base_paths = read_base_paths(fields, where);
  drive.is_root_device = fields.required("is_root_device", JsonBool{});
  drive.is_read_only = fields.optional("is_read_only", JsonBool{}).value_or(drive.is_read_only);
  drive.partuuid = fields.optional("partuuid", kPartuuid);
  drive.cache_type = fields.optional("cache_type", JsonEnum<CacheType>{kCacheTypes}).value_or(drive.cache_type);
  drive.io_engine = fields.optional("io_engine", JsonEnum<std::string_view>{kIoEngines}).transform(owned);
  drive.direct = fields.optional("direct", JsonBool{}).value_or(drive.direct);
  drive.discard = fields.optional("discard", JsonEnum<Discard>{kDiscards}).value_or(drive.discard);
  drive.rate_limiter = fields.optional("rate_limiter", read_rate_limiter);
  return fields.finish(std::move(drive));
}

void write_drive(JsonWriter& json, const DriveConfig& drive) {
  json.begin_object();
  json.field("drive_id", drive.drive_id);
  json.field("path_on_host", drive.path_on_host);
  if (drive.base_paths.size() == 1) json.field("base_path", drive.base_paths.front());
  if (drive.base_paths.size() > 1) {
    json.key("base_paths");
    json.begin_array();
    for (const std::string& path : drive.base_paths) json.value(path);
    json.end_array();
  }
  json.field("is_root_device", drive.is_root_device);
  json.field("is_read_only", drive.is_read_only);
  if (drive.partuuid) json.field("partuuid", *drive.partuuid);
  json.field("cache_type", json_name(kCacheTypes, drive.cache_type));
  if (drive.io_engine) json.field("io_engine", *drive.io_engine);
  json.field("direct", drive.direct);
  json.field("discard", json_name(kDiscards, drive.discard));
  write_rate_limiter(json, "rate_limiter", drive.rate_limiter);
  json.end_object();
}

Result<DrivePatch> read_drive_patch(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  DrivePatch patch{.drive_id = fields.required("drive_id", kDriveId),
                   .path_on_host = fields.optional("path_on_host", JsonPath{}),
                   .rate_limiter = fields.optional("rate_limiter", read_rate_limiter)};
  if (!patch.path_on_host && !patch.rate_limiter) {
    fields.refuse(fmt::format("{} has no field to change: give path_on_host, rate_limiter or both", where));
  }
  return fields.finish(std::move(patch));
}

}  // namespace mayfly
