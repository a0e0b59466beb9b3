// The floor under a start: bare KVM ioctls from opening /dev/kvm to the first instruction of a guest of 128 MiB, in the
// order and with the interrupt controllers that the arguments say, then the time that closing it all takes.
//
//   kvm_floor [split|kernel|none] [pit] [slot-last] [restore FILE MIB] [stay]
//   prints: first_us=... close_us=...
//
// With `restore` it is the floor under a restore: the memory is FILE, mapped privately, and the CPUID is at hand. With
// `stay` it prints an "A" after the first instruction, and closes all when its input ends.
//
// The best order is the default. The others are what the choice of a split irqchip, a user-space PIT and slots first is
// measured against (vmm/README.md, "Start-up").

#include "vmm/base/mapping.h"
#include "vmm/base/owned_fd.h"
#include "vmm/kvm/abi.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string_view>

namespace mayfly::perf {
namespace {

constexpr std::size_t kMemory = std::size_t{128} << 20;

struct Choice {
  enum class Irqchip { Split, Kernel, None } irqchip = Irqchip::Split;
  bool pit = false;
  bool slot_last = false;
  bool stay = false;
  const char* restore_file = nullptr;
  std::size_t memory = kMemory;
};

double now_us() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

void must(bool good, const char* what) {
  if (good) return;
  std::perror(what);
  ::_exit(1);
}

struct Machine {
  OwnedFd kvm, vm, vcpu;
  Mapping memory, run;
};

void set_slot(const Machine& machine) {
  const kvm_userspace_memory_region slot{.slot = 0,
                                         .flags = 0,
                                         .guest_phys_addr = 0,
                                         .memory_size = machine.memory.length(),
                                         .userspace_addr = reinterpret_cast<std::uintptr_t>(machine.memory.address())};
  must(::ioctl(machine.vm.get(), KVM_SET_USER_MEMORY_REGION, &slot) == 0, "KVM_SET_USER_MEMORY_REGION");
}

void set_interrupts(const Machine& machine, const Choice& choice) {
  if (choice.irqchip == Choice::Irqchip::Split) {
    kvm_enable_cap split{};
    split.cap = KVM_CAP_SPLIT_IRQCHIP;
    split.args[0] = 24;
    must(::ioctl(machine.vm.get(), KVM_ENABLE_CAP, &split) == 0, "KVM_CAP_SPLIT_IRQCHIP");
  } else if (choice.irqchip == Choice::Irqchip::Kernel) {
    must(::ioctl(machine.vm.get(), KVM_CREATE_IRQCHIP, 0) == 0, "KVM_CREATE_IRQCHIP");
  }
  if (choice.pit) {
    const kvm_pit_config pit{};
    must(::ioctl(machine.vm.get(), KVM_CREATE_PIT2, &pit) == 0, "KVM_CREATE_PIT2");
  }
}

kvm_abi::CpuidTable& cpuid_table() {
  static kvm_abi::CpuidTable table;
  return table;
}

void query_cpuid(int kvm) {
  kvm_abi::CpuidTable& cpuid = cpuid_table();
  cpuid.count = static_cast<std::uint32_t>(cpuid.entries.size());
  must(::ioctl(kvm, kvm_abi::kGetSupportedCpuid, &cpuid) == 0, "KVM_GET_SUPPORTED_CPUID");
}

void make_vcpu(Machine& machine) {
  machine.vcpu = OwnedFd{::ioctl(machine.vm.get(), KVM_CREATE_VCPU, 0)};
  must(static_cast<bool>(machine.vcpu), "KVM_CREATE_VCPU");
  const auto size = static_cast<std::size_t>(::ioctl(machine.kvm.get(), KVM_GET_VCPU_MMAP_SIZE, 0));
  machine.run = Mapping{::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, machine.vcpu.get(), 0), size};
  must(static_cast<bool>(machine.run), "mmap of kvm_run");
  // What any monitor must do for a kernel: show it a CPU, and set its registers.
  if (cpuid_table().count == 0) query_cpuid(machine.kvm.get());
  must(::ioctl(machine.vcpu.get(), kvm_abi::kSetCpuid2, &cpuid_table()) == 0, "KVM_SET_CPUID2");
  kvm_sregs special{};
  must(::ioctl(machine.vcpu.get(), KVM_GET_SREGS, &special) == 0, "KVM_GET_SREGS");
  special.cs.base = 0;
  special.cs.selector = 0;
  must(::ioctl(machine.vcpu.get(), KVM_SET_SREGS, &special) == 0, "KVM_SET_SREGS");
  kvm_regs general{};
  general.rip = 0x1000;
  general.rflags = 2;
  must(::ioctl(machine.vcpu.get(), KVM_SET_REGS, &general) == 0, "KVM_SET_REGS");
}

void stay_until_input_ends() {
  must(::write(STDOUT_FILENO, "A", 1) == 1, "write");
  char ignored = 0;
  while (::read(STDIN_FILENO, &ignored, 1) > 0) {
  }
}

int measure(const Choice& choice) {
  // Descriptors up front, as a monitor does before it has threads.
  ::close(::fcntl(2, F_DUPFD_CLOEXEC, 255));
  if (choice.restore_file != nullptr) query_cpuid(OwnedFd{::open("/dev/kvm", O_RDWR | O_CLOEXEC)}.get());
  const double begin = now_us();
  double first = 0;
  double close_begin = 0;
  {
    Machine machine;
    machine.kvm = OwnedFd{::open("/dev/kvm", O_RDWR | O_CLOEXEC)};
    must(static_cast<bool>(machine.kvm), "/dev/kvm");
    machine.vm = OwnedFd{::ioctl(machine.kvm.get(), KVM_CREATE_VM, 0)};
    must(static_cast<bool>(machine.vm), "KVM_CREATE_VM");
    OwnedFd file;
    if (choice.restore_file != nullptr) file = OwnedFd{::open(choice.restore_file, O_RDONLY | O_CLOEXEC)};
    const int flags = MAP_PRIVATE | MAP_NORESERVE | (file ? 0 : MAP_ANONYMOUS);
    machine.memory =
        Mapping{::mmap(nullptr, choice.memory, PROT_READ | PROT_WRITE, flags, file.get(), 0), choice.memory};
    must(static_cast<bool>(machine.memory), "mmap of guest memory");
    constexpr unsigned char kOut[] = {0xE6, 0x80};  // out %al, $0x80
    std::memcpy(machine.memory.bytes().data() + 0x1000, kOut, sizeof kOut);
    if (!choice.slot_last) set_slot(machine);
    set_interrupts(machine, choice);
    if (choice.slot_last) set_slot(machine);
    make_vcpu(machine);
    must(::ioctl(machine.vcpu.get(), KVM_RUN, 0) == 0, "KVM_RUN");
    must(static_cast<kvm_run*>(machine.run.address())->exit_reason == KVM_EXIT_IO, "the guest's first instruction");
    first = now_us() - begin;
    if (choice.stay) stay_until_input_ends();
    close_begin = now_us();
    machine.vcpu.reset();
    machine.run.reset();
  }
  std::printf("first_us=%.1f close_us=%.1f\n", first, now_us() - close_begin);
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  using mayfly::perf::Choice;
  Choice choice;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];  // NOLINT
    if (word == "split")
      choice.irqchip = Choice::Irqchip::Split;
    else if (word == "kernel")
      choice.irqchip = Choice::Irqchip::Kernel;
    else if (word == "none")
      choice.irqchip = Choice::Irqchip::None;
    else if (word == "pit")
      choice.pit = true;
    else if (word == "slot-last")
      choice.slot_last = true;
    else if (word == "stay")
      choice.stay = true;
    else if (word == "restore" && i + 2 < argc) {
      choice.restore_file = argv[++i];                              // NOLINT
      choice.memory = std::strtoull(argv[++i], nullptr, 10) << 20;  // NOLINT
    } else
      return std::fprintf(stderr, "kvm_floor: unknown word %s\n", argv[i]), 2;  // NOLINT
  }
  return mayfly::perf::measure(choice);
}
