// The filters that the monitor has, asked about what an attacker would call.

#include "jailer/seccomp/built_in.h"

#include "jailer/seccomp/blob.h"
#include "tests/unit/jailer/seccomp/bpf_machine.h"
#include "vmm/kvm/abi.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <string>

#include <gtest/gtest.h>

namespace mayfly::seccomp {
namespace {

using testing::answer_to;
using testing::call_of;

constexpr std::array kOfRunningMachines = {
    ThreadKind::Running,  ThreadKind::Revertible,         ThreadKind::Live,         ThreadKind::LiveRevertible,
    ThreadKind::Channels, ThreadKind::ChannelsRevertible, ThreadKind::ChannelsLive, ThreadKind::ChannelsLiveRevertible};

class BuiltInFilters : public ::testing::TestWithParam<ThreadKind> {
 protected:
  [[nodiscard]] std::uint32_t answer(const seccomp_data& data) const {
    const auto programs = find_programs(built_in_blob());
    EXPECT_TRUE(programs) << programs.error().message;
    const ThreadKind kind = GetParam();
    if (is_of_running_machine(kind)) return answer_to(programs->of(ThreadKind::Loop), programs->of(kind), data);
    return answer_to(programs->of(kind), data);
  }
  [[nodiscard]] bool allows(int number, std::initializer_list<std::uint64_t> arguments = {}) const {
    return answer(call_of(number, arguments)) == SECCOMP_RET_ALLOW;
  }
};

TEST_P(BuiltInFilters, RefuseWhatLeadsOutOfTheProcess) {
  for (const int number : {__NR_execve,
                           __NR_execveat,
                           __NR_ptrace,
                           __NR_mount,
                           __NR_umount2,
                           __NR_pivot_root,
                           __NR_setns,
                           __NR_unshare,
                           __NR_chroot,
                           __NR_kill,
                           __NR_tkill,
                           __NR_bpf,
                           __NR_fork,
                           __NR_vfork,
                           __NR_prlimit64,
                           __NR_open,
                           __NR_openat2,
                           __NR_perf_event_open,
                           __NR_io_uring_setup,
                           __NR_init_module,
                           __NR_keyctl,
                           __NR_add_key,
                           __NR_memfd_create,
                           __NR_pidfd_open,
                           __NR_pidfd_getfd,
                           __NR_process_vm_writev,
                           __NR_setuid,
                           __NR_capset,
                           __NR_rt_sigqueueinfo,
                           __NR_open_by_handle_at,
                           __NR_link,
                           __NR_symlink,
                           __NR_mknod,
                           __NR_chmod,
                           __NR_reboot})
    EXPECT_EQ(answer(call_of(number)), SECCOMP_RET_TRAP) << number;
}

TEST_P(BuiltInFilters, RefuseArgumentsThatNoThreadNeeds) {
  EXPECT_FALSE(allows(__NR_socket, {AF_INET, SOCK_STREAM, 0}));
  EXPECT_FALSE(allows(__NR_socket, {AF_UNIX, SOCK_SEQPACKET, 0}));
  EXPECT_FALSE(allows(__NR_socket, {AF_NETLINK, SOCK_RAW, 0}));
  EXPECT_FALSE(allows(__NR_mmap, {0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS}));
  EXPECT_FALSE(allows(__NR_mprotect, {0, 4096, PROT_READ | PROT_EXEC}));
  EXPECT_FALSE(allows(__NR_clone, {SIGCHLD}));
  EXPECT_FALSE(allows(__NR_clone, {CLONE_NEWUSER | SIGCHLD}));
  EXPECT_FALSE(allows(__NR_tgkill, {1, 1, SIGKILL}));
  EXPECT_FALSE(allows(__NR_process_vm_readv, {1}));
  EXPECT_FALSE(allows(__NR_ioctl, {0, 0x5412}));      // TIOCSTI
  EXPECT_FALSE(allows(__NR_ioctl, {0, 0x4004667f}));  // a number of nothing that we open
  EXPECT_FALSE(allows(__NR_io_uring_register, {0, IORING_REGISTER_BUFFERS}));
  EXPECT_FALSE(allows(__NR_fcntl, {0, 8, 1}));  // F_SETOWN
  EXPECT_FALSE(allows(__NR_userfaultfd, {0}));
  EXPECT_FALSE(allows(__NR_clone3));
}

TEST_P(BuiltInFilters, LetAThreadLockLogAndEnd) {
  for (const int number : {__NR_futex, __NR_write, __NR_poll, __NR_exit, __NR_exit_group, __NR_munmap})
    EXPECT_TRUE(allows(number)) << number;
}

TEST_P(BuiltInFilters, GiveFilesSocketsAndTheGuestToWhomeverTheyAreOf) {
  const ThreadKind kind = GetParam();
  const bool makes_others = kind == ThreadKind::Loop;
  const bool carries_out = kind == ThreadKind::Loop || is_of_running_machine(kind);
  EXPECT_EQ(allows(__NR_openat), carries_out);
  EXPECT_EQ(allows(__NR_socket, {AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0}), kind == ThreadKind::Loop);
  EXPECT_EQ(allows(__NR_ioctl, {5, KVM_CREATE_VM}), kind == ThreadKind::Loop);
  EXPECT_EQ(allows(__NR_recvfrom), kind == ThreadKind::Api);
  EXPECT_EQ(allows(__NR_ioctl, {5, KVM_RUN}), kind == ThreadKind::Vcpu || makes_others);
  EXPECT_EQ(allows(__NR_io_uring_enter), carries_out);
}

/// What sets a machine up, and what nobody needs once it runs.
TEST_P(BuiltInFilters, LeaveSettingUpToTheLoopBeforeItsMachineRuns) {
  const bool sets_up = GetParam() == ThreadKind::Loop;
  for (const std::uint64_t request :
       {std::uint64_t{KVM_CREATE_VM}, std::uint64_t{KVM_ENABLE_CAP}, std::uint64_t{KVM_SET_USER_MEMORY_REGION},
        std::uint64_t{KVM_CREATE_VCPU}, std::uint64_t{kvm_abi::kSetCpuid2}, std::uint64_t{KVM_SET_TSC_KHZ},
        std::uint64_t{KVM_IRQFD}, std::uint64_t{KVM_IOEVENTFD}, std::uint64_t{TUNSETIFF},
        std::uint64_t{UFFDIO_REGISTER}, std::uint64_t{0xaa00}})
    EXPECT_EQ(allows(__NR_ioctl, {5, request}), sets_up) << std::hex << request;
  const bool sets_vcpus = sets_up || traits_of(GetParam()).reverts;
  for (const std::uint64_t request :
       {std::uint64_t{kvm_abi::kSetMsrs}, std::uint64_t{kvm_abi::kSetXsave}, std::uint64_t{KVM_SET_REGS},
        std::uint64_t{KVM_SET_SREGS}, std::uint64_t{KVM_SET_LAPIC}, std::uint64_t{KVM_SET_CLOCK}})
    EXPECT_EQ(allows(__NR_ioctl, {5, request}), sets_vcpus) << std::hex << request;
  EXPECT_EQ(allows(__NR_userfaultfd, {O_CLOEXEC | O_NONBLOCK}), sets_up);
  EXPECT_EQ(allows(__NR_bind), sets_up);
  EXPECT_EQ(allows(__NR_listen), sets_up);
  EXPECT_EQ(allows(__NR_sendmsg), sets_up);
  EXPECT_EQ(allows(__NR_socket, {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0}), sets_up);
  EXPECT_EQ(allows(__NR_seccomp, {SECCOMP_SET_MODE_FILTER, 0}), sets_up);
}

/// Other machines reach no socket.
TEST_P(BuiltInFilters, LetSocketsBeMadeAndTakenWhereChannelsAre) {
  const bool may = GetParam() == ThreadKind::Loop || traits_of(GetParam()).has_channels;
  EXPECT_EQ(allows(__NR_socket, {AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0}), may);
  EXPECT_EQ(allows(__NR_connect), may);
  EXPECT_EQ(allows(__NR_accept4, {7, 0, 0, SOCK_CLOEXEC}), may);
  EXPECT_EQ(allows(__NR_shutdown, {7, SHUT_WR}), may || GetParam() == ThreadKind::Api);
  EXPECT_FALSE(allows(__NR_shutdown, {7, SHUT_RD}));
}

/// A child that holds memory for a live snapshot.
TEST_P(BuiltInFilters, LetAProcessBeMadeWhereLiveSnapshotsAreAndByNoOtherFlags) {
  const bool makes = traits_of(GetParam()).takes_live_snapshots;
  const bool may = makes || GetParam() == ThreadKind::Loop;  // under which those two are
  EXPECT_EQ(allows(__NR_clone, {0}), may);
  EXPECT_EQ(allows(__NR_wait4, {7, 0, WNOHANG | __WALL, 0}), may);
  EXPECT_EQ(allows(__NR_close_range, {0, 0xFFFF'FFFF, 0}), may);
  EXPECT_EQ(allows(__NR_prctl, {PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0}), may);
  EXPECT_EQ(allows(__NR_madvise, {0, 0, MADV_DOFORK}), may);
  for (const std::uint64_t flags :
       {std::uint64_t{CLONE_VM}, std::uint64_t{CLONE_PARENT}, std::uint64_t{CLONE_NEWPID},
        std::uint64_t{CLONE_VFORK | CLONE_VM}, std::uint64_t{SIGCHLD}, std::uint64_t{1} << 32})
    EXPECT_FALSE(allows(__NR_clone, {flags})) << std::hex << flags;
  EXPECT_FALSE(allows(__NR_prctl, {PR_SET_PDEATHSIG, 0, 0, 0, 0}));
  EXPECT_FALSE(allows(__NR_close_range, {3, 4, 0}));
}

/// It becomes each thread of a child, and makes such processes alone.
TEST(BuiltInFilter, OfTheBrancherMakesProcessesOfOneKindAndExecutesNothing) {
  const auto programs = find_programs(built_in_blob());
  ASSERT_TRUE(programs);
  const auto allows = [&](int number, std::initializer_list<std::uint64_t> arguments = {}) {
    return answer_to(programs->of(ThreadKind::Brancher), call_of(number, arguments)) == SECCOMP_RET_ALLOW;
  };
  EXPECT_TRUE(allows(__NR_clone, {SIGCHLD | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID}));
  EXPECT_TRUE(allows(__NR_tgkill, {7, 7, static_cast<std::uint64_t>(SIGURG)}));
  for (const std::uint64_t flags : {std::uint64_t{SIGCHLD}, std::uint64_t{CLONE_NEWUSER | SIGCHLD},
                                    std::uint64_t{CLONE_VM | SIGCHLD}, std::uint64_t{CLONE_PARENT | SIGCHLD}})
    EXPECT_FALSE(allows(__NR_clone, {flags})) << std::hex << flags;
  for (const int call : {__NR_execve, __NR_execveat, __NR_kill, __NR_ptrace, __NR_unshare, __NR_setns, __NR_mount,
                         __NR_process_vm_writev, __NR_pidfd_getfd, __NR_pidfd_send_signal})
    EXPECT_FALSE(allows(call)) << call;
  EXPECT_FALSE(allows(__NR_socket, {AF_INET, SOCK_STREAM, 0}));
  EXPECT_FALSE(allows(__NR_mmap, {0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS}));
}

/// The kernel compiles it while a load's client waits, and asks both at each call.
TEST(BuiltInFilter, OfARunningMachineIsNotMuchMoreThanWhatItWithdraws) {
  const auto programs = find_programs(built_in_blob());
  ASSERT_TRUE(programs);
  for (const ThreadKind kind : kOfRunningMachines)
    EXPECT_LT(programs->of(kind).size() * 2, programs->of(ThreadKind::Loop).size()) << name_of(kind);
}

std::string name_of_kind(const ::testing::TestParamInfo<ThreadKind>& info) { return std::string{name_of(info.param)}; }

INSTANTIATE_TEST_SUITE_P(EachThread, BuiltInFilters,
                         ::testing::Values(ThreadKind::Loop, ThreadKind::Api, ThreadKind::Vcpu, ThreadKind::Recorder),
                         name_of_kind);
INSTANTIATE_TEST_SUITE_P(OfARunningMachine, BuiltInFilters, ::testing::ValuesIn(kOfRunningMachines), name_of_kind);

}  // namespace
}  // namespace mayfly::seccomp
