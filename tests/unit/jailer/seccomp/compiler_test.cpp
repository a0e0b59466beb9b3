#include "jailer/seccomp/compiler.h"

#include "jailer/seccomp/blob.h"
#include "jailer/seccomp/constants.h"
#include "tests/unit/jailer/seccomp/bpf_machine.h"

#include <linux/kvm.h>
#include <sched.h>
#include <sys/mman.h>

#include <gtest/gtest.h>

namespace mayfly::seccomp {
namespace {

using testing::answer_to;
using testing::call_of;

std::vector<CompiledFilter> compiled(std::string_view text) {
  const auto parsed = parse_filters(text, constant_named);
  EXPECT_TRUE(parsed) << parsed.error().message;
  auto filters = compile_filters(*parsed);
  EXPECT_TRUE(filters) << filters.error().message;
  return filters ? std::move(*filters) : std::vector<CompiledFilter>{};
}

TEST(FilterCompiler, LetsThroughWhatTheTextSaysAndTrapsTheRest) {
  const auto filters = compiled("[loop]\nread\nioctl(_, KVM_RUN)\nioctl(_, KVM_GET_REGS)\nclone3 -> ENOSYS");
  ASSERT_EQ(filters.size(), 1U);
  const auto& program = filters[0].program;
  EXPECT_EQ(filters[0].thread, "loop");
  EXPECT_EQ(answer_to(program, call_of(__NR_read, {1, 2, 3})), SECCOMP_RET_ALLOW);
  EXPECT_EQ(answer_to(program, call_of(__NR_write)), SECCOMP_RET_TRAP);
  EXPECT_EQ(answer_to(program, call_of(__NR_ioctl, {5, KVM_RUN})), SECCOMP_RET_ALLOW);
  EXPECT_EQ(answer_to(program, call_of(__NR_ioctl, {5, KVM_GET_REGS})), SECCOMP_RET_ALLOW);
  EXPECT_EQ(answer_to(program, call_of(__NR_ioctl, {5, KVM_SET_REGS})), SECCOMP_RET_TRAP);
  EXPECT_EQ(answer_to(program, call_of(__NR_ioctl, {5, KVM_RUN | 1ULL << 32})), SECCOMP_RET_TRAP);
  EXPECT_EQ(answer_to(program, call_of(__NR_clone3)), SECCOMP_RET_ERRNO | ENOSYS);
}

TEST(FilterCompiler, ABitOutsideOfWhatAnArgumentIsWithinIsTrapped) {
  const auto program = compiled("[loop]\nmmap(_, _, within PROT_READ|PROT_WRITE)")[0].program;
  EXPECT_EQ(answer_to(program, call_of(__NR_mmap, {0, 4096, PROT_NONE})), SECCOMP_RET_ALLOW);
  EXPECT_EQ(answer_to(program, call_of(__NR_mmap, {0, 4096, PROT_READ | PROT_WRITE})), SECCOMP_RET_ALLOW);
  EXPECT_EQ(answer_to(program, call_of(__NR_mmap, {0, 4096, PROT_EXEC})), SECCOMP_RET_TRAP);
  EXPECT_EQ(answer_to(program, call_of(__NR_mmap, {0, 4096, PROT_READ | PROT_EXEC})), SECCOMP_RET_TRAP);
  EXPECT_EQ(answer_to(program, call_of(__NR_mmap, {0, 4096, 1ULL << 40})), SECCOMP_RET_TRAP);
}

TEST(FilterCompiler, ConditionsOfAllKindsOnOneCallAreAlternatives) {
  const auto program = compiled(
                           "[loop]\nfcntl(_, F_GETFL)\nfcntl(_, F_SETFL, within O_NONBLOCK)\n"
                           "fcntl(_, F_DUPFD_CLOEXEC, 0)\nfcntl(within 1, 77, 3)")[0]
                           .program;
  EXPECT_EQ(answer_to(program, call_of(__NR_fcntl, {9, 3, 123})), SECCOMP_RET_ALLOW);
  EXPECT_EQ(answer_to(program, call_of(__NR_fcntl, {9, 4, 0})), SECCOMP_RET_ALLOW);
  EXPECT_EQ(answer_to(program, call_of(__NR_fcntl, {9, 4, 04000})), SECCOMP_RET_ALLOW);
  EXPECT_EQ(answer_to(program, call_of(__NR_fcntl, {9, 4, 040000})), SECCOMP_RET_TRAP);
  EXPECT_EQ(answer_to(program, call_of(__NR_fcntl, {9, 1030, 0})), SECCOMP_RET_ALLOW);
  EXPECT_EQ(answer_to(program, call_of(__NR_fcntl, {9, 1030, 1})), SECCOMP_RET_TRAP);
  EXPECT_EQ(answer_to(program, call_of(__NR_fcntl, {1, 77, 3})), SECCOMP_RET_ALLOW);
  EXPECT_EQ(answer_to(program, call_of(__NR_fcntl, {2, 77, 3})), SECCOMP_RET_TRAP);
  EXPECT_EQ(answer_to(program, call_of(__NR_fcntl, {1, 78, 3})), SECCOMP_RET_TRAP);
}

TEST(FilterCompiler, OtherInterfacesOfTheKernelAreTrapped) {
  const auto program = compiled("[loop]\nread\nwrite")[0].program;
  auto data = call_of(__NR_read);
  data.arch = AUDIT_ARCH_I386;
  EXPECT_EQ(answer_to(program, data), SECCOMP_RET_TRAP);
  data = call_of(__NR_read | 0x40000000);  // __X32_SYSCALL_BIT
  EXPECT_NE(answer_to(program, data), SECCOMP_RET_ALLOW);
}

TEST(FilterCompiler, OwnProcessIsANumberThatWhoeverInstallsReplaces) {
  const auto program = compiled("[loop]\ntgkill(own-process)")[0].program;
  EXPECT_EQ(answer_to(program, call_of(__NR_tgkill, {kOwnProcess, 1, 9})), SECCOMP_RET_ALLOW);
  EXPECT_EQ(answer_to(program, call_of(__NR_tgkill, {1, 1, 9})), SECCOMP_RET_TRAP);
  std::size_t places = 0;
  for (const sock_filter& each : program) places += BPF_CLASS(each.code) == BPF_JMP && each.k == kOwnProcess ? 1 : 0;
  EXPECT_EQ(places, 1U);
}

/// Whatever the second program lists, both together let through what its section says.
TEST(FilterCompiler, AFilterOnTopOfAnotherNarrowsIt) {
  const std::string below =
      "[every]\nfutex\nclone3 -> ENOSYS\n[loop]\nconnect\nseccomp(1, 0)\nioctl(_, KVM_CREATE_VM)\n"
      "ioctl(_, KVM_SET_REGS)\nioctl(_, KVM_SET_SREGS)\nmadvise(_, _, MADV_RANDOM)\n";
  const std::string kept = "[running] on loop\nread\nioctl(_, KVM_GET_REGS)\nmadvise(_, _, MADV_NORMAL)\n";
  struct Case {
    std::string more;  // of [running]
    bool refuses;      // the shorter program lists what is withdrawn
  };
  for (const auto& [more, refuses] :
       {Case{"openat\nfsync\nrename\nunlink\nclose\nftruncate\ngetdents64\npread64\npwrite64\nlseek\n", true},
        Case{"ioctl(_, KVM_CREATE_VM, 7)\nopenat\nfsync\nrename\nunlink\nclose\nftruncate\ngetdents64\n", false}}) {
    const auto filters = compiled(below + kept + more);
    ASSERT_EQ(filters.size(), 2U);
    const auto both = [&](int number, std::initializer_list<std::uint64_t> arguments = {}) {
      return answer_to(filters[0].program, filters[1].program, call_of(number, arguments));
    };
    EXPECT_EQ(answer_to(filters[1].program, call_of(__NR_execve)) == SECCOMP_RET_ALLOW, refuses);
    EXPECT_EQ(both(__NR_execve), SECCOMP_RET_TRAP);
    EXPECT_EQ(both(__NR_read), SECCOMP_RET_ALLOW);
    EXPECT_EQ(both(__NR_futex), SECCOMP_RET_ALLOW);
    EXPECT_EQ(both(__NR_fsync), SECCOMP_RET_ALLOW);
    EXPECT_EQ(both(__NR_clone3), SECCOMP_RET_ERRNO | ENOSYS);
    EXPECT_EQ(both(__NR_connect), SECCOMP_RET_TRAP);
    EXPECT_EQ(both(__NR_seccomp, {1, 0}), SECCOMP_RET_TRAP);
    EXPECT_EQ(both(__NR_ioctl, {5, KVM_GET_REGS}), SECCOMP_RET_ALLOW);
    EXPECT_EQ(both(__NR_ioctl, {5, KVM_GET_REGS | 1ULL << 32}), SECCOMP_RET_TRAP);
    EXPECT_EQ(both(__NR_ioctl, {5, KVM_SET_REGS}), SECCOMP_RET_TRAP);
    EXPECT_EQ(both(__NR_ioctl, {5, KVM_SET_REGS | 1ULL << 32}), SECCOMP_RET_TRAP);
    EXPECT_EQ(both(__NR_ioctl, {5, KVM_CREATE_VM, 0}), SECCOMP_RET_TRAP);
    EXPECT_EQ(both(__NR_ioctl, {5, KVM_CREATE_VM, 7}), refuses ? SECCOMP_RET_TRAP : SECCOMP_RET_ALLOW);
    EXPECT_EQ(both(__NR_madvise, {0, 0, MADV_NORMAL}), SECCOMP_RET_ALLOW);
    EXPECT_EQ(both(__NR_madvise, {0, 0, MADV_RANDOM}), SECCOMP_RET_TRAP);
    auto data = call_of(__NR_read);
    data.arch = AUDIT_ARCH_I386;
    EXPECT_EQ(answer_to(filters[0].program, filters[1].program, data), SECCOMP_RET_TRAP);
  }
}

TEST(FilterCompiler, ACallThatThereIsNotNamesItsLine) {
  const auto parsed = parse_filters("[loop]\nread\nreed", constant_named);
  ASSERT_TRUE(parsed);
  const auto filters = compile_filters(*parsed);
  ASSERT_FALSE(filters);
  EXPECT_EQ(filters.error().message, "[loop]: line 3: there is no system call 'reed' on this machine; see syscalls(2)");
}

TEST(FilterCompiler, AProgramLongerThanTheKernelTakesIsRefused) {
  std::string text = "[loop]\n";
  for (int i = 0; i < 4100; ++i) text += "read(" + std::to_string(i) + ")\n";
  const auto parsed = parse_filters(text, constant_named);
  ASSERT_TRUE(parsed);
  const auto filters = compile_filters(*parsed);
  ASSERT_FALSE(filters);
  EXPECT_NE(filters.error().message.find("the kernel takes 4096"), std::string::npos) << filters.error().message;
}

}  // namespace
}  // namespace mayfly::seccomp
