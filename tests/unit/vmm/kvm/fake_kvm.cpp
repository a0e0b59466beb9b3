#include "tests/unit/vmm/kvm/fake_kvm.h"

#include "vmm/base/error.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

namespace mayfly::testing {
namespace {

constexpr std::size_t kRunSize = 3 * 4096;
constexpr int kTscKhz = 2'500'000;
constexpr std::array<std::uint32_t, 4> kListedMsrs{0x10, 0x277, 0x6E0, 0xC000'0102};

struct NamedCall {
  unsigned long request;
  const char* name;
};

constexpr std::array kNames = {
    NamedCall{KVM_GET_API_VERSION, "KVM_GET_API_VERSION"},
    NamedCall{KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE"},
    NamedCall{KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION"},
    NamedCall{kvm_abi::kGetSupportedCpuid, "KVM_GET_SUPPORTED_CPUID"},
    NamedCall{kvm_abi::kGetMsrIndexList, "KVM_GET_MSR_INDEX_LIST"},
    NamedCall{KVM_CREATE_VM, "KVM_CREATE_VM"},
    NamedCall{KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR"},
    NamedCall{KVM_ENABLE_CAP, "KVM_ENABLE_CAP"},
    NamedCall{KVM_CREATE_VCPU, "KVM_CREATE_VCPU"},
    NamedCall{KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION"},
    NamedCall{KVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG"},
    NamedCall{KVM_GET_CLOCK, "KVM_GET_CLOCK"},
    NamedCall{KVM_SET_CLOCK, "KVM_SET_CLOCK"},
    NamedCall{KVM_IOEVENTFD, "KVM_IOEVENTFD"},
    NamedCall{KVM_IRQFD, "KVM_IRQFD"},
    NamedCall{KVM_SIGNAL_MSI, "KVM_SIGNAL_MSI"},
    NamedCall{kvm_abi::kSetGsiRouting, "KVM_SET_GSI_ROUTING"},
    NamedCall{KVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ"},
    NamedCall{KVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ"},
    NamedCall{kvm_abi::kSetCpuid2, "KVM_SET_CPUID2"},
    NamedCall{kvm_abi::kGetCpuid2, "KVM_GET_CPUID2"},
    NamedCall{kvm_abi::kSetMsrs, "KVM_SET_MSRS"},
    NamedCall{kvm_abi::kGetMsrs, "KVM_GET_MSRS"},
    NamedCall{KVM_GET_REGS, "KVM_GET_REGS"},
    NamedCall{KVM_SET_REGS, "KVM_SET_REGS"},
    NamedCall{KVM_GET_SREGS, "KVM_GET_SREGS"},
    NamedCall{KVM_SET_SREGS, "KVM_SET_SREGS"},
    NamedCall{kvm_abi::kGetXsave, "KVM_GET_XSAVE"},
    NamedCall{kvm_abi::kSetXsave, "KVM_SET_XSAVE"},
    NamedCall{KVM_GET_XCRS, "KVM_GET_XCRS"},
    NamedCall{KVM_SET_XCRS, "KVM_SET_XCRS"},
    NamedCall{KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS"},
    NamedCall{KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS"},
    NamedCall{KVM_GET_LAPIC, "KVM_GET_LAPIC"},
    NamedCall{KVM_SET_LAPIC, "KVM_SET_LAPIC"},
    NamedCall{KVM_GET_MP_STATE, "KVM_GET_MP_STATE"},
    NamedCall{KVM_SET_MP_STATE, "KVM_SET_MP_STATE"},
    NamedCall{KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS"},
    NamedCall{KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS"},
    NamedCall{KVM_KVMCLOCK_CTRL, "KVM_KVMCLOCK_CTRL"},
    NamedCall{KVM_INTERRUPT, "KVM_INTERRUPT"},
    NamedCall{KVM_TRANSLATE, "KVM_TRANSLATE"},
};

std::string name_of(unsigned long request) {
  const auto* found = std::ranges::find(kNames, request, &NamedCall::request);
  return found == kNames.end() ? fmt::format("request {:#x}", request) : found->name;
}

template <typename T>
T& at(unsigned long argument) {
  return *reinterpret_cast<T*>(argument);  // as ioctl(2) takes it
}

int refuse(int error_number) {
  errno = error_number;
  return -1;
}

/// -1 and errno: the test has taken descriptors away.
int memory_file(std::size_t size) {
  const int fd = ::memfd_create("fake-kvm", MFD_CLOEXEC);
  ensure(fd < 0 || ::ftruncate(fd, static_cast<off_t>(size)) == 0, "a file of memory does not grow");
  return fd;
}

constexpr kvm_cpuid_entry2 leaf(std::uint32_t function, std::uint32_t eax) {
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.eax = eax;
  return entry;
}

}  // namespace

FakeKvm::FakeKvm() : news_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) { ensure(static_cast<bool>(news_), "no event"); }

FakeKvm::~FakeKvm() {
  for (const FakeVcpu& vcpu : vcpus_) ::munmap(vcpu.run, kRunSize);
}

int FakeKvm::open(const char* /*path*/) noexcept {
  const std::scoped_lock lock{mutex_};
  calls_.emplace_back("open");
  if (calls_to_failure_ && (*calls_to_failure_)-- == 0) {
    calls_to_failure_.reset();
    failed_ = "open";
    return refuse(error_number_);
  }
  system_fd_ = memory_file(0);
  return system_fd_;
}

int FakeKvm::control(int fd, unsigned long request, unsigned long argument) noexcept {
  if (request == KVM_RUN) return run(fd);
  std::unique_lock lock{mutex_};
  if (request == KVM_CREATE_VM) released_.wait(lock, [this] { return !creation_held_; });
  if (request == KVM_CREATE_VCPU && vcpus_follow_memory_)
    (void)released_.wait_for(lock, std::chrono::seconds{20}, [this] {
      return failed_ || std::ranges::find(calls_, "KVM_SET_USER_MEMORY_REGION") != calls_.end();
    });
  calls_.push_back(name_of(request));
  if (request == KVM_SET_USER_MEMORY_REGION) released_.notify_all();
  if (calls_to_failure_ && (*calls_to_failure_)-- == 0) {
    calls_to_failure_.reset();
    failed_ = calls_.back();
    released_.notify_all();
    return refuse(error_number_);
  }
  return answer(fd, request, argument);
}

void FakeKvm::hold_creation() {
  const std::scoped_lock lock{mutex_};
  creation_held_ = true;
}

void FakeKvm::make_vcpus_after_memory() {
  const std::scoped_lock lock{mutex_};
  vcpus_follow_memory_ = true;
}

void FakeKvm::release() {
  const std::scoped_lock lock{mutex_};
  creation_held_ = false;
  released_.notify_all();
}

int FakeKvm::answer(int fd, unsigned long request, unsigned long argument) {
  if (FakeVcpu* vcpu = vcpu_of(fd)) return answer_vcpu(*vcpu, request, argument);
  return fd == system_fd_ ? answer_system(request, argument) : answer_vm(request, argument);
}

int FakeKvm::answer_system(unsigned long request, unsigned long argument) {
  switch (request) {
    case KVM_GET_API_VERSION:
      return KVM_API_VERSION;
    case KVM_GET_VCPU_MMAP_SIZE:
      return kRunSize;
    case KVM_CHECK_EXTENSION:
      return argument == lacking_ ? 0 : 1;
    case KVM_CREATE_VM:
      return memory_file(0);
    case kvm_abi::kGetSupportedCpuid: {
      auto& table = at<kvm_abi::CpuidTable>(argument);
      table.count = 0;
      for (const auto& [function, eax] :
           {std::pair{0x0U, 0xDU}, {0x1U, 0x663U}, {0x7U, 0U}, {0x4000'0000U, 0x4000'0001U}, {0x8000'0008U, 0x3030U}})
        table.entries.at(table.count++) = leaf(function, eax);
      return 0;
    }
    case kvm_abi::kGetMsrIndexList: {
      auto& table = at<kvm_abi::MsrIndexTable>(argument);
      table.count = kListedMsrs.size();
      std::ranges::copy(kListedMsrs, table.indices.begin());
      return 0;
    }
    default:
      return refuse(ENOTTY);
  }
}

int FakeKvm::answer_vm(unsigned long request, unsigned long argument) {
  switch (request) {
    case KVM_CHECK_EXTENSION:
      return argument == KVM_CAP_XSAVE2 ? static_cast<int>(kvm_abi::kLeastXsaveSize) : 1;
    case KVM_CREATE_VCPU: {
      FakeVcpu vcpu;
      vcpu.fd = memory_file(kRunSize);
      if (vcpu.fd < 0) return -1;
      void* run = ::mmap(nullptr, kRunSize, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd, 0);
      ensure(run != MAP_FAILED, "no run area");
      vcpu.run = static_cast<kvm_run*>(run);
      vcpu.run->ready_for_interrupt_injection = 1;
      vcpus_.push_back(std::move(vcpu));
      return vcpus_.back().fd;
    }
    case KVM_GET_CLOCK:
      at<kvm_clock_data>(argument) = {};
      at<kvm_clock_data>(argument).clock = clock_ns_;
      return 0;
    case KVM_SET_CLOCK:
      clock_ns_ = at<kvm_clock_data>(argument).clock;
      return 0;
    case KVM_GET_DIRTY_LOG:
      std::ranges::copy(dirty_, static_cast<std::uint64_t*>(at<kvm_dirty_log>(argument).dirty_bitmap));
      dirty_.clear();
      return 0;
    case KVM_SET_TSS_ADDR:
    case KVM_ENABLE_CAP:
    case KVM_SET_USER_MEMORY_REGION:
    case KVM_IOEVENTFD:
    case KVM_IRQFD:
    case KVM_SIGNAL_MSI:
    case kvm_abi::kSetGsiRouting:
      return 0;
    default:
      return refuse(ENOTTY);
  }
}

int FakeKvm::answer_msrs(FakeVcpu& vcpu, unsigned long request, kvm_abi::MsrTable& table) {
  int done = 0;
  for (kvm_msr_entry& entry : std::span{table.entries}.first(table.count)) {
    if (request == kvm_abi::kSetMsrs) {
      vcpu.registers.msrs[entry.index] = entry.data;
    } else {
      // All that Mayfly asks for is there, and 0 where nobody has set it.
      entry.data = vcpu.registers.msrs[entry.index];
    }
    ++done;
  }
  return done;
}

int FakeKvm::answer_vcpu(FakeVcpu& vcpu, unsigned long request, unsigned long argument) {
  VcpuRegisters& own = vcpu.registers;
  const auto get = [argument](const auto& value) {
    at<std::remove_cvref_t<decltype(value)>>(argument) = value;
    return 0;
  };
  const auto set = [argument](auto& value) {
    value = at<std::remove_cvref_t<decltype(value)>>(argument);
    return 0;
  };
  switch (request) {
    case KVM_GET_TSC_KHZ:
      return kTscKhz;
    case KVM_SET_TSC_KHZ:
    case KVM_KVMCLOCK_CTRL:
    case KVM_INTERRUPT:
      return 0;
    case kvm_abi::kSetCpuid2: {
      const auto& table = at<kvm_abi::CpuidTable>(argument);
      own.cpuid.assign(table.entries.begin(), table.entries.begin() + table.count);
      return 0;
    }
    case kvm_abi::kGetCpuid2: {
      auto& table = at<kvm_abi::CpuidTable>(argument);
      table.count = static_cast<std::uint32_t>(own.cpuid.size());
      std::ranges::copy(own.cpuid, table.entries.begin());
      return 0;
    }
    case kvm_abi::kGetMsrs:
    case kvm_abi::kSetMsrs:
      return answer_msrs(vcpu, request, at<kvm_abi::MsrTable>(argument));
    case kvm_abi::kGetXsave:
      std::memcpy(reinterpret_cast<void*>(argument), own.xsave.data(), own.xsave.size());
      return 0;
    case kvm_abi::kSetXsave:
      std::memcpy(own.xsave.data(), reinterpret_cast<const void*>(argument), own.xsave.size());
      return 0;
    case KVM_GET_REGS:
      return get(own.regs);
    case KVM_SET_REGS:
      return set(own.regs);
    case KVM_GET_SREGS:
      return get(own.sregs);
    case KVM_SET_SREGS:
      return set(own.sregs);
    case KVM_GET_XCRS:
      return get(own.xcrs);
    case KVM_SET_XCRS:
      return set(own.xcrs);
    case KVM_GET_DEBUGREGS:
      return get(own.debug_regs);
    case KVM_SET_DEBUGREGS:
      return set(own.debug_regs);
    case KVM_GET_LAPIC:
      return get(own.lapic);
    case KVM_SET_LAPIC:
      return set(own.lapic);
    case KVM_GET_MP_STATE:
      return get(own.mp_state);
    case KVM_SET_MP_STATE:
      return set(own.mp_state);
    case KVM_GET_VCPU_EVENTS:
      return get(own.events);
    case KVM_SET_VCPU_EVENTS:
      return set(own.events);
    default:
      return refuse(ENOTTY);
  }
}

// As KVM_RUN: an exit that was asked for, or a signal, ends it with EINTR. The kick is blocked but for the wait, so
// that none is lost between the look at immediate_exit and that.
int FakeKvm::run(int fd) {
  sigset_t kick;
  sigset_t before;
  ::sigemptyset(&kick);
  ::sigaddset(&kick, SIGURG);
  ::pthread_sigmask(SIG_BLOCK, &kick, &before);
  sigset_t open = before;
  ::sigdelset(&open, SIGURG);
  kvm_run* area = nullptr;
  Exit exit;
  bool kicked = false;
  bool is_first = false;
  for (bool entered = false; !exit && !kicked;) {
    {
      const std::scoped_lock lock{mutex_};
      if (!std::exchange(entered, true)) ++entries_;
      FakeVcpu* vcpu = vcpu_of(fd);
      area = vcpu->run;
      kicked = __atomic_load_n(&area->immediate_exit, __ATOMIC_ACQUIRE) != 0;
      is_first = vcpu == vcpus_.data();
      if (!kicked && is_first && !exits_.empty()) {
        exit = std::move(exits_.front());
        exits_.erase(exits_.begin());
      } else if (is_first) {
        eventfd_t seen = 0;
        (void)::eventfd_read(news_.get(), &seen);
      }
    }
    if (kicked || exit) break;
    pollfd news{.fd = news_.get(), .events = POLLIN, .revents = 0};
    kicked = ::ppoll(&news, is_first ? 1 : 0, nullptr, &open) < 0;
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (kicked) {
    area->exit_reason = KVM_EXIT_INTR;
    return refuse(EINTR);
  }
  const int error_number = exit(*area);
  return error_number == 0 ? 0 : refuse(error_number);
}

FakeKvm::FakeVcpu* FakeKvm::vcpu_of(int fd) {
  // The newest: a number may have been another vCPU's before.
  const auto found = std::ranges::find(vcpus_.rbegin(), vcpus_.rend(), fd, &FakeVcpu::fd);
  return found == vcpus_.rend() ? nullptr : &*found;
}

// --- The test's side
// --------------------------------------------------------------------------------------------------

void FakeKvm::fail_once(std::size_t call, int error_number) {
  const std::scoped_lock lock{mutex_};
  calls_to_failure_ = call;
  error_number_ = error_number;
  failed_.reset();
}

std::optional<std::string> FakeKvm::failed() const {
  const std::scoped_lock lock{mutex_};
  return failed_;
}

std::vector<std::string> FakeKvm::calls() const {
  const std::scoped_lock lock{mutex_};
  return calls_;
}

void FakeKvm::forget() {
  const std::scoped_lock lock{mutex_};
  calls_.clear();
}

void FakeKvm::lack(unsigned long capability) {
  const std::scoped_lock lock{mutex_};
  lacking_ = capability;
}

void FakeKvm::leave(Exit exit) {
  const std::scoped_lock lock{mutex_};
  exits_.push_back(std::move(exit));
  (void)::eventfd_write(news_.get(), 1);
}

std::size_t FakeKvm::entries() const {
  const std::scoped_lock lock{mutex_};
  return entries_;
}

std::size_t FakeKvm::vcpu_count() const {
  const std::scoped_lock lock{mutex_};
  return vcpus_.size();
}

FakeKvm::VcpuRegisters FakeKvm::registers(std::size_t vcpu) const {
  const std::scoped_lock lock{mutex_};
  return vcpus_.at(vcpu).registers;
}

void FakeKvm::set_registers(std::size_t vcpu, VcpuRegisters registers) {
  const std::scoped_lock lock{mutex_};
  vcpus_.at(vcpu).registers = std::move(registers);
}

std::uint64_t FakeKvm::clock_ns() const {
  const std::scoped_lock lock{mutex_};
  return clock_ns_;
}

void FakeKvm::set_clock_ns(std::uint64_t ns) {
  const std::scoped_lock lock{mutex_};
  clock_ns_ = ns;
}

void FakeKvm::set_dirty(std::vector<std::uint64_t> words) {
  const std::scoped_lock lock{mutex_};
  dirty_ = std::move(words);
}

}  // namespace mayfly::testing
