// Any text as a CPU template, on CPUID tables of any content: what is read is written and read as the same, and
// whatever is taken, the table stays one. An input is a template (JSON), a zero, and what the host's table has.

#include "api/schema.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/must.h"
#include "vmm/kvm/cpu_template.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/host_features.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mayfly {
namespace {

/// Leaves that the code knows, and any other.
constexpr std::uint32_t kLeaves[] = {0,    1,           4,           7,           0xB,         0xD,         0x15,
                                     0x16, 0x1F,        0x4000'0000, 0x4000'0001, 0x8000'0000, 0x8000'0001, 0x8000'0007,
                                     0xA,  0x8000'0008, 0x8000'001D, 0x8000'001E, 0x4000'0010, 0x14};

kvm_abi::CpuidTable table_of(std::span<const std::uint8_t> input) {
  kvm_abi::CpuidTable table;
  while (!input.empty() && table.count < 64) {
    const auto place = take<std::array<std::uint8_t, 2>>(input);
    kvm_cpuid_entry2& entry = table.entries.at(table.count++);
    entry.function = place[0] < 0xF0 ? kLeaves[place[0] % std::size(kLeaves)] : take<std::uint32_t>(input);
    entry.index = place[1] % 8;
    entry.flags = place[1] / 8 % 2;
    entry.eax = entry.ebx = take<std::uint32_t>(input);
    entry.ecx = entry.edx = take<std::uint32_t>(input);
  }
  return table;
}

/// Empty where it is no template.
std::optional<CpuConfig> read(std::string_view text) {
  const auto json = parse_json(text, "it");
  if (!json) return std::nullopt;
  auto config = read_cpu_config(*json, "it");
  return config ? std::optional{std::move(*config)} : std::nullopt;
}

std::string written(const CpuConfig& config) {
  JsonWriter json;
  write_cpu_config(json, config);
  return std::move(json).take();
}

void play(std::string_view text, std::span<const std::uint8_t> rest) {
  CpuConfig config;
  if (auto read_one = read(text)) {
    config = std::move(*read_one);
    const auto again = read(written(config));
    must(again && written(*again) == written(config));
  }
  const auto kind = take<std::uint8_t>(rest);
  kvm_abi::CpuidTable table = table_of(rest);
  const std::uint32_t before = table.count;
  const auto offered = std::span{table.entries}.first(table.count);
  const HostFeatures host = HostFeatures::of(offered, kind);
  const auto same = HostFeatures::read(host.to_cpu_config());
  must(same && *same == host && *host.in_common_with(*same) == host);
  if (const auto other = HostFeatures::read(config)) {
    const auto both = host.in_common_with(*other);
    const auto turned = other->in_common_with(host);
    must(both.has_value() == turned.has_value() && (!both || *both == *turned));
  }
  (void)check_template_host(table, static_cast<CpuTemplate>(kind % 6));
  apply_cpu_template(table, static_cast<CpuTemplate>(kind % 6));
  must(table.count == before);
  const CpuIdentity identity{.vcpu_count = kind % 32U + 1,
                             .smt = (kind & 32) != 0,
                             .tsc_deadline = (kind & 64) != 0,
                             .tsc_khz = (kind & 128) != 0 ? 2'000'000U : 0};
  (void)prepare_cpuid(table, identity, config.cpuid);
  must(table.count <= table.entries.size());
  for (const unsigned vcpu : {0U, identity.vcpu_count - 1}) set_apic_id(table, vcpu, identity);
}

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  const std::size_t end = std::min(bytes.find('\0'), size);
  mayfly::play(bytes.substr(0, end), std::span{data, size}.subspan(std::min(end + 1, size)));
  return 0;
}
