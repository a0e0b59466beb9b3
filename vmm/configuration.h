#pragma once

#include "vmm/base/log.h"
#include "vmm/memory/guest_memory.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

/// What a user configures, as plain values. The API, the configuration file and the command line all make these; only
/// the controller (vmm/controller.h) judges and keeps them. Field names are those of the API's JSON.
namespace mayfly {

/// Limits of the machine. See api/openapi.yaml.
inline constexpr unsigned kMaximumVcpus = 32;
inline constexpr std::size_t kMaximumCommandLine = 2047;  ///< Bytes without the NUL: Linux keeps no more.
inline constexpr const char* kDefaultBootArgs =
    "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";

/// PUT /boot-source
struct BootSource {
  std::string kernel_image_path{};
  std::optional<std::string> initrd_path{};
  std::optional<std::string> boot_args{};
};

/// PUT /machine-config
struct MachineConfig {
  unsigned vcpu_count = 1;           ///< 1 to kMaximumVcpus.
  std::uint64_t mem_size_mib = 128;  ///< At least 1; even with 2M pages.
  bool smt = false;                  ///< Show pairs of vCPUs as threads of one core.
  bool track_dirty_pages = false;
  HugePages huge_pages = HugePages::None;
};

/// PATCH /machine-config: only what is present changes.
struct MachineConfigPatch {
  std::optional<unsigned> vcpu_count{};
  std::optional<std::uint64_t> mem_size_mib{};
  std::optional<bool> smt{};
  std::optional<bool> track_dirty_pages{};
  std::optional<HugePages> huge_pages{};
};

/// Which bits of a register a template changes, and to what: bits outside `mask` stay as the host has them.
template <typename Word>
struct BitEdit {
  Word mask = 0;   ///< 1: this bit is set to the bit of `value`.
  Word value = 0;  ///< Only bits of `mask` are ever 1.
  [[nodiscard]] constexpr Word apply(Word original) const noexcept {
    return static_cast<Word>((original & ~mask) | value);
  }
};

enum class CpuidRegister { Eax, Ebx, Ecx, Edx };

/// One register of one CPUID leaf.
struct CpuidEdit {
  std::uint32_t leaf = 0;
  std::uint32_t subleaf = 0;
  std::uint32_t flags = 0;  ///< KVM_CPUID_FLAG_*; bit 0: the subleaf matters.
  CpuidRegister reg = CpuidRegister::Eax;
  BitEdit<std::uint32_t> bits{};
};

struct MsrEdit {
  std::uint32_t address = 0;
  BitEdit<std::uint64_t> bits{};
};

/// A KVM capability that must be there (or, with `removed`, is left out of the check).
struct KvmCapabilityEdit {
  std::uint32_t number = 0;
  bool removed = false;
};

/// PUT /cpu-config
struct CpuConfig {
  std::vector<CpuidEdit> cpuid{};
  std::vector<MsrEdit> msrs{};
  std::vector<KvmCapabilityEdit> capabilities{};
};

/// A token bucket: `size` tokens that refill evenly over `refill_time_ms`, and a burst that is spent once.
struct TokenBucketConfig {
  std::uint64_t size = 0;
  std::uint64_t refill_time_ms = 0;
  std::uint64_t one_time_burst = 0;
};

/// PUT /serial
struct SerialConfig {
  std::optional<std::string> serial_out_path{};     ///< Absent: standard output.
  std::optional<TokenBucketConfig> rate_limiter{};  ///< Bytes of output; what exceeds it is dropped and counted.
};

/// PUT /metrics
struct MetricsConfig {
  std::string metrics_path{};
  bool emit_id = false;
  std::map<std::string, std::string> properties{};
};

/// Everything that is configured: GET /vm/config, and --config-file.
struct VmConfig {
  std::optional<BootSource> boot_source{};
  MachineConfig machine{};
  std::optional<CpuConfig> cpu{};
  std::optional<SerialConfig> serial{};
  std::optional<LoggerConfig> logger{};
  std::optional<MetricsConfig> metrics{};
};

}  // namespace mayfly
