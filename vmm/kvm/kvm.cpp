#include "vmm/kvm/kvm.h"

#include <array>
#include <cerrno>

namespace mayfly {
namespace {

struct Needed {
  int capability;
  const char* name;
};

constexpr std::array kNeeded = {
    Needed{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"}, Needed{KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"},
    Needed{KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},   Needed{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    Needed{KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},     Needed{KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
};

std::unexpected<Error> open_error(const std::string& path) {
  switch (errno) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
      return fail_errno(ErrorKind::Unsupported,
                        "{} is not there: load the kvm_intel or kvm_amd module, or enable (nested) virtualization on "
                        "this host",
                        path);
    case EACCES:
    case EPERM:
      return fail_errno(ErrorKind::Permission, "{} may not be opened: add this user to the group that owns it", path);
    default:
      return fail_errno(ErrorKind::Kvm, "{} cannot be opened", path);
  }
}

}  // namespace

Result<Kvm> Kvm::open(KvmCalls& calls, const std::string& path) {
  KvmFd fd{OwnedFd{calls.open(path.c_str())}, calls};
  if (!fd) return open_error(path);
  const int version = fd.control(KVM_GET_API_VERSION);
  if (version < 0)
    return fail_errno(ErrorKind::Kvm, "{} does not answer KVM_GET_API_VERSION; is it KVM's device?", path);
  if (version != KVM_API_VERSION)
    return fail(ErrorKind::Unsupported, "{} speaks KVM API version {}; Mayfly needs {}", path, version,
                KVM_API_VERSION);
  const int run_size = fd.control(KVM_GET_VCPU_MMAP_SIZE);
  if (run_size < 0) return fail_errno(ErrorKind::Kvm, "KVM_GET_VCPU_MMAP_SIZE failed");
  if (run_size < static_cast<int>(sizeof(kvm_run)))
    return fail(ErrorKind::Unsupported, "{} gives a run area of {} bytes; Mayfly needs {}", path, run_size,
                sizeof(kvm_run));
  Kvm kvm{std::move(fd), static_cast<std::size_t>(run_size)};
  for (const Needed& needed : kNeeded)
    if (kvm.check_extension(needed.capability) <= 0)
      return fail(ErrorKind::Unsupported, "this host's KVM lacks {}; Mayfly needs Linux 5.19 or later", needed.name);
  return kvm;
}

Result<KvmFd> Kvm::create_vm() const {
  int vm = -1;
  do {
    vm = fd_.control(KVM_CREATE_VM);
  } while (vm < 0 && errno == EINTR);
  if (vm < 0) return fail_errno(ErrorKind::Kvm, "KVM_CREATE_VM failed");
  return KvmFd{OwnedFd{vm}, fd_.calls()};
}

int Kvm::check_extension(int capability) const noexcept {
  return fd_.control(KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability));
}

Result<std::unique_ptr<kvm_abi::CpuidTable>> Kvm::supported_cpuid() const {
  auto table = std::make_unique<kvm_abi::CpuidTable>();
  table->count = static_cast<std::uint32_t>(table->entries.size());
  if (fd_.control(kvm_abi::kGetSupportedCpuid, table.get()) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_GET_SUPPORTED_CPUID failed");
  return table;
}

Result<std::optional<std::uint64_t>> Kvm::feature_msr(std::uint32_t index) const {
  kvm_abi::MsrTable table;
  table.count = 1;
  table.entries.front().index = index;
  const int done = fd_.control(kvm_abi::kGetMsrs, &table);
  if (done < 0 && errno != EINVAL && errno != ENOTTY)  // those: before KVM_CAP_GET_MSR_FEATURES
    return fail_errno(ErrorKind::Kvm, "KVM_GET_MSRS of {:#x} failed", index);
  return done == 1 ? std::optional{table.entries.front().data} : std::nullopt;
}

Result<std::vector<std::uint32_t>> Kvm::msr_indices() const {
  auto table = std::make_unique<kvm_abi::MsrIndexTable>();
  table->count = static_cast<std::uint32_t>(table->indices.size());
  if (fd_.control(kvm_abi::kGetMsrIndexList, table.get()) != 0)
    return fail_errno(ErrorKind::Kvm, "KVM_GET_MSR_INDEX_LIST failed");
  return std::vector<std::uint32_t>{table->indices.begin(), table->indices.begin() + table->count};
}

}  // namespace mayfly
