#include "vmm/cli/cpu_tools.h"

#include "api/config_file.h"
#include "api/schema.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/try.h"
#include "vmm/cli/exit_codes.h"
#include "vmm/kvm/arch_capabilities.h"
#include "vmm/kvm/host_features.h"
#include "vmm/kvm/kvm.h"

#include <optional>
#include <utility>

#include <fmt/format.h>

namespace mayfly {
namespace {

Result<HostFeatures> features_of_this_host() {
  const auto kvm = TRY(Kvm::open());
  const auto offered = TRY(kvm.supported_cpuid());
  const auto capabilities = TRY(kvm.feature_msr(kMsrArchCapabilities));
  return HostFeatures::of(std::span{offered->entries}.first(offered->count), capabilities);
}

Result<HostFeatures> features_in_file(const std::string& path) {
  const auto config = TRY(read_cpu_config_file(path, path + ": cpu-config"));
  auto host = HostFeatures::read(config);
  if (!host)
    return fail(
        ErrorKind::InvalidArgument,
        "{}: no host's features, as mayfly doctor --cpu of this version prints them: {}; print them again on that "
        "host",
        path, host.error().message);
  return host;
}

Result<HostFeatures> features_in_common(std::span<const std::string> files) {
  std::optional<HostFeatures> common;
  for (const std::string& path : files) {
    auto host = TRY(features_in_file(path));
    if (!common) {
      common = std::move(host);
      continue;
    }
    auto both = common->in_common_with(host);
    if (!both) return propagate(both, path);
    common = std::move(*both);
  }
  return std::move(*common);
}

}  // namespace

int run_doctor_cpu(std::span<const std::string> files, std::FILE* out) {
  const auto features = files.empty() ? features_of_this_host() : features_in_common(files);
  if (!features) return report(features.error(), kExitError);
  JsonWriter json;
  write_cpu_config(json, features->to_cpu_config());
  return print(std::move(json).take() + '\n', out);
}

}  // namespace mayfly
