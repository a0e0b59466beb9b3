#include "api/schema.h"
#include "vmm/memory/guest_memory.h"

namespace mayfly {
namespace {

constexpr JsonName<HugePages> kHugePages[] = {
    {"None", HugePages::None}, {"Transparent", HugePages::Transparent}, {"2M", HugePages::Explicit2M}};

constexpr JsonWhole kVcpuCount{.lowest = 1, .highest = kMaximumVcpus};
constexpr JsonWhole kMemSizeMib{.lowest = 1, .highest = GuestMemory::kMaximumSizeMib};

/// Templates are deprecated in the dialect, and /cpu-config says more; but clients send "T2" as a matter of course.
constexpr JsonName<CpuTemplate> kCpuTemplates[] = {{"None", CpuTemplate::None}, {"T2", CpuTemplate::T2},
                                                   {"T2S", CpuTemplate::T2S},   {"T2CL", CpuTemplate::T2CL},
                                                   {"T2A", CpuTemplate::T2A},   {"C3", CpuTemplate::C3}};

Result<CpuTemplate> read_cpu_template(const JsonValue& json, const std::string& where) {
  auto name = JsonString{}(json, where);
  if (!name) return propagate(name);
  if (*name == "V1N1")
    return fail(ErrorKind::InvalidArgument,
                "{} \"V1N1\" is for 64-bit Arm, and this is an x86-64 machine: leave it out", where);
  return JsonEnum<CpuTemplate>{kCpuTemplates}(json, where);
}

void check_together(JsonFields& fields, const std::string& where, const MachineConfigPatch& config) {
  if (config.huge_pages == HugePages::Explicit2M && config.mem_size_mib.value_or(0) % 2 != 0) {
    fields.refuse(
        fmt::format("{}.mem_size_mib must be even where huge_pages is \"2M\", not {}", where, *config.mem_size_mib));
  }
  const unsigned vcpus = config.vcpu_count.value_or(1);
  if (config.smt.value_or(false) && vcpus > 1 && vcpus % 2 != 0) {
    fields.refuse(fmt::format("{}.vcpu_count must be 1 or even where smt is true, not {}", where, vcpus));
  }
}

unsigned narrow(std::uint64_t vcpus) { return static_cast<unsigned>(vcpus); }  // kVcpuCount has checked it

}  // namespace

Result<BootSource> read_boot_source(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  BootSource source{.kernel_image_path = fields.required("kernel_image_path", JsonPath{}),
                    .initrd_path = fields.optional("initrd_path", JsonPath{}),
                    .boot_args = fields.optional("boot_args", JsonString{.longest = kMaximumCommandLine})};
  return fields.finish(std::move(source));
}

void write_boot_source(JsonWriter& json, const BootSource& source) {
  json.begin_object();
  json.field("kernel_image_path", source.kernel_image_path);
  if (source.initrd_path) json.field("initrd_path", *source.initrd_path);
  if (source.boot_args) json.field("boot_args", *source.boot_args);
  json.end_object();
}

Result<MachineConfig> read_machine_config(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  MachineConfig config;
  config.vcpu_count = narrow(fields.required("vcpu_count", kVcpuCount));
  config.mem_size_mib = fields.required("mem_size_mib", kMemSizeMib);
  config.smt = fields.optional("smt", JsonBool{}).value_or(config.smt);
  config.track_dirty_pages = fields.optional("track_dirty_pages", JsonBool{}).value_or(config.track_dirty_pages);
  config.huge_pages = fields.optional("huge_pages", JsonEnum<HugePages>{kHugePages}).value_or(config.huge_pages);
  config.cpu_template = fields.optional("cpu_template", read_cpu_template).value_or(config.cpu_template);
  check_together(fields, where,
                 {.vcpu_count = config.vcpu_count,
                  .mem_size_mib = config.mem_size_mib,
                  .smt = config.smt,
                  .track_dirty_pages = {},
                  .huge_pages = config.huge_pages,
                  .cpu_template = {}});
  return fields.finish(config);
}

Result<MachineConfigPatch> read_machine_config_patch(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  MachineConfigPatch patch;
  patch.vcpu_count = fields.optional("vcpu_count", kVcpuCount).transform(narrow);
  patch.mem_size_mib = fields.optional("mem_size_mib", kMemSizeMib);
  patch.smt = fields.optional("smt", JsonBool{});
  patch.track_dirty_pages = fields.optional("track_dirty_pages", JsonBool{});
  patch.huge_pages = fields.optional("huge_pages", JsonEnum<HugePages>{kHugePages});
  patch.cpu_template = fields.optional("cpu_template", read_cpu_template);
  check_together(fields, where, patch);
  if (!patch.vcpu_count && !patch.mem_size_mib && !patch.smt && !patch.track_dirty_pages && !patch.huge_pages &&
      !patch.cpu_template) {
    fields.refuse(fmt::format("{} has no field to change", where));
  }
  return fields.finish(patch);
}

void write_machine_config(JsonWriter& json, const MachineConfig& config) {
  json.begin_object();
  json.field("vcpu_count", config.vcpu_count);
  json.field("mem_size_mib", config.mem_size_mib);
  json.field("smt", config.smt);
  json.field("track_dirty_pages", config.track_dirty_pages);
  // Clients that are older than this value refuse an answer that has it.
  if (config.huge_pages != HugePages::Transparent) json.field("huge_pages", json_name(kHugePages, config.huge_pages));
  if (config.cpu_template != CpuTemplate::None)
    json.field("cpu_template", json_name(kCpuTemplates, config.cpu_template));
  json.end_object();
}

}  // namespace mayfly
