#include "rootfs-tools/clones/template_file.h"

#include "rootfs-tools/agent/host/place.h"
#include "rootfs-tools/agent/protocol.h"
#include "vmm/base/files.h"
#include "vmm/base/json_fields.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/try.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>

namespace mayfly::clones {
namespace {

constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kLongestManifest = std::size_t{1} << 20;

Result<std::uint64_t> needed_number(const JsonValue& object, std::string_view name, std::string_view what,
                                    std::uint64_t most) {
  const auto number = TRY(number_field(object, name, what));
  if (number && *number <= most) return *number;
  return fail(ErrorKind::InvalidArgument, "{}: {} must be a number up to {}; build the template again", what, name,
              most);
}

Status read_files(const JsonValue& object, const std::string& what, Template& read) {
  const auto files = TRY(object_field(object, "files", what));
  for (const JsonMember& file : files) {
    if (file.name.empty() || file.name.find('/') != std::string::npos || file.name.starts_with('.'))
      return fail(ErrorKind::InvalidArgument, "{}: a file of a template has a name without a slash", what);
    const auto size = TRY(needed_number(file.value, "size_bytes", what, INT64_MAX));
    auto digest = TRY(text_field(file.value, "digest", what));
    read.files.push_back({.name = file.name, .size = size, .digest = std::move(digest)});
  }
  for (const char* name : {kBaseName, kLayerName, kStateName, kMemoryName})
    if (!read.has(name))
      return fail(ErrorKind::InvalidArgument, "{}: files has no {}; build the template again", what, name);
  return {};
}

Status check_files(const Template& read) {
  for (const TemplateFile& file : read.files) {
    struct stat status{};
    const std::string path = read.path(file.name);
    // A link could lead root's clones to any file, and a pipe holds up who opens it.
    if (::lstat(path.c_str(), &status) != 0) return fail_errno(ErrorKind::NotFound, "{} cannot be looked at", path);
    if (!S_ISREG(status.st_mode))
      return fail(ErrorKind::InvalidArgument, "{} is no file; build the template again, or copy it whole", path);
    if (static_cast<std::uint64_t>(status.st_size) != file.size)
      return fail(ErrorKind::InvalidArgument,
                  "{} has {} bytes and {} says {}; build the template again, or copy it whole", path, status.st_size,
                  kTemplateFile, file.size);
  }
  return {};
}

void write_override(JsonWriter& json, const char* drive, const std::string& path, const std::string& below) {
  json.begin_object();
  json.field("drive_id", drive);
  json.field("path_on_host", path);
  if (!below.empty()) {
    json.key("base_paths");
    json.begin_array();
    json.value(below);
    json.end_array();
  }
  json.end_object();
}

}  // namespace

bool Template::has(std::string_view name) const {
  return std::ranges::find(files, name, &TemplateFile::name) != files.end();
}

std::string to_json(const Template& made) {
  JsonWriter json;
  json.begin_object();
  json.field("version", kVersion);
  json.key("image");
  json.begin_object();
  json.field("digest", made.image);
  json.key("names");
  json.begin_array();
  for (const std::string& name : made.names) json.value(name);
  json.end_array();
  json.end_object();
  json.key("machine");
  json.begin_object();
  json.field("vcpu_count", made.vcpus);
  json.field("mem_size_mib", made.memory_mib);
  json.field("ready_port", made.ready_port);
  json.end_object();
  json.key("files");
  json.begin_object();
  for (const TemplateFile& file : made.files) {
    json.key(file.name);
    json.begin_object();
    json.field("size_bytes", file.size);
    if (!file.digest.empty()) json.field("digest", file.digest);
    json.end_object();
  }
  json.end_object();
  json.end_object();
  return std::move(json).take() + '\n';
}

Result<std::string> read_manifest(const std::string& path) {
  return read_file(path, path + " (is it a directory of mayfly-template build?)", kLongestManifest);
}

Result<Template> read_template(const std::string& directory) {
  Template read{.directory = directory};
  while (read.directory.size() > 1 && read.directory.ends_with('/')) read.directory.pop_back();
  const std::string what = read.path(kTemplateFile);
  const auto text = TRY(read_manifest(what));
  const auto json = TRY(parse_json(text, what));
  const auto version = TRY(number_field(json, "version", what));
  if (version != kVersion)
    return fail(ErrorKind::InvalidArgument, "{}: version must be {}; build the template by this Mayfly", what,
                kVersion);
  const auto* image = TRY(field_of(json, "image", what));
  const auto* machine = TRY(field_of(json, "machine", what));
  if (image == nullptr || machine == nullptr)
    return fail(ErrorKind::InvalidArgument, "{}: image or machine is missing; build the template again", what);
  read.image = TRY(text_field(*image, "digest", what));
  read.names = TRY(texts_field(*image, "names", what));
  const auto vcpus = TRY(needed_number(*machine, "vcpu_count", what, 32));
  const auto port = TRY(needed_number(*machine, "ready_port", what, UINT16_MAX));
  read.vcpus = static_cast<unsigned>(vcpus);
  read.ready_port = static_cast<std::uint16_t>(port);
  read.memory_mib = TRY(needed_number(*machine, "mem_size_mib", what, INT64_MAX >> 20));
  TRY(read_files(json, what, read));
  TRY(check_files(read));
  return read;
}

std::string load_request(const Template& from, const ClonePlaces& places, bool records) {
  JsonWriter json;
  const auto shared = [&](const char* name) { return places.files + '/' + name; };
  json.begin_object();
  json.field("snapshot_path", shared(kStateName));
  json.key("mem_backend");
  json.begin_object();
  json.field("backend_type", "File");
  json.field("backend_path", shared(kMemoryName));
  json.end_object();
  json.field("resume_vm", true);
  json.field("paths", "Named");
  json.key("drive_overrides");
  json.begin_array();
  write_override(json, kBaseName, shared(kBaseName), {});
  write_override(json, kLayerName, places.own + "/overlay", shared(kLayerName));
  json.end_array();
  json.key("channel_overrides");
  json.begin_array();
  json.begin_object();
  json.field("port", agent::kDefaultPort);
  json.field("uds_path", places.own + '/' + agent::kAgentSocket);
  json.end_object();
  json.end_array();
  if (records || from.has(kWorkingSetName)) {
    json.key("working_set");
    json.begin_object();
    json.field("mode", records ? "Record" : "Replay");
    json.field("path", records ? places.own + '/' + kWorkingSetName : shared(kWorkingSetName));
    json.end_object();
  }
  json.end_object();
  return std::move(json).take();
}

}  // namespace mayfly::clones
