#include "snapshot/host_cpu.h"

#include <cpuid.h>
#include <sys/utsname.h>

#include <array>
#include <cstring>

namespace mayfly {
namespace {

std::string ask_kernel() {
  utsname names{};
  if (::uname(&names) != 0) return {};
  return std::string{names.release} + ' ' + names.version;
}

}  // namespace

HostCpu host_cpu_of(std::uint32_t ebx, std::uint32_t edx, std::uint32_t ecx, std::uint32_t signature) {
  std::array<char, 12> vendor{};
  std::memcpy(vendor.data(), &ebx, 4);
  std::memcpy(vendor.data() + 4, &edx, 4);
  std::memcpy(vendor.data() + 8, &ecx, 4);
  // Intel SDM vol. 2, CPUID, "Version information": extended family and model count only where the base says so.
  const std::uint32_t base_family = signature >> 8 & 0xF;
  const std::uint32_t base_model = signature >> 4 & 0xF;
  HostCpu cpu{.vendor = {vendor.data(), vendor.size()}, .stepping = signature & 0xF};
  cpu.family = base_family == 0xF ? base_family + (signature >> 20 & 0xFF) : base_family;
  cpu.model = base_family == 0xF || base_family == 6 ? (signature >> 16 & 0xF) << 4 | base_model : base_model;
  return cpu;
}

const std::string& this_host_kernel() {
  static const std::string kernel = ask_kernel();
  return kernel;
}

const HostCpu& this_host_cpu() {
  static const HostCpu cpu = [] {
    std::uint32_t eax = 0;
    std::uint32_t ebx = 0;
    std::uint32_t ecx = 0;
    std::uint32_t edx = 0;
    __cpuid(0, eax, ebx, ecx, edx);
    std::uint32_t signature = 0;
    std::uint32_t ignored = 0;
    __cpuid(1, signature, ignored, ignored, ignored);
    HostCpu here = host_cpu_of(ebx, edx, ecx, signature);
    here.kernel = this_host_kernel();
    return here;
  }();
  return cpu;
}

Status check_host_cpu(const HostCpu& saved, const HostCpu& here) {
  if (saved.vendor == here.vendor) return {};
  return fail(ErrorKind::Unsupported,
              "the snapshot's processor is of {}, and this host's of {}: registers and features of the two differ; "
              "restore it on a host of {}",
              saved.vendor, here.vendor, saved.vendor);
}

bool is_same_host_kind(const HostCpu& saved, const HostCpu& here) noexcept {
  return saved.vendor == here.vendor && saved.family == here.family && saved.model == here.model &&
         !saved.kernel.empty() && saved.kernel == here.kernel;
}

}  // namespace mayfly
