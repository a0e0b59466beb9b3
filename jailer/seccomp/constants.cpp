#include "jailer/seccomp/constants.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>

namespace mayfly::seccomp {
namespace {

struct Constant {
  std::string_view name;
  std::uint64_t value;
};

// Headers define these by macros, which have names only for the preprocessor.
#define NAMED(constant) \
  Constant { #constant, static_cast<std::uint64_t>(constant) }

/// Of Linux 6.7, newer than the headers that we build with.
constexpr std::uint64_t kPagemapScan = 0xc0606610;  // include/uapi/linux/fs.h
/// Of Linux 6.14; include/uapi/linux/pidfd.h.
constexpr auto kPidfdSelf = static_cast<std::uint64_t>(-10000);

using XsaveArea = std::array<std::byte, 4096>;

/// In the order of their headers' names.
constexpr std::array kConstants = {
    // asm/ioctls.h
    NAMED(TCGETS),
    NAMED(TCSETS),
    NAMED(TIOCGWINSZ),
    // asm/sockios.h, linux/sockios.h
    NAMED(SIOCGIFINDEX),
    // errno.h
    NAMED(EACCES),
    NAMED(ENOSYS),
    NAMED(EPERM),
    // fcntl.h
    NAMED(F_DUPFD_CLOEXEC),
    NAMED(F_GETFD),
    NAMED(F_GETFL),
    NAMED(F_OFD_GETLK),
    NAMED(F_OFD_SETLK),
    NAMED(F_SETFD),
    NAMED(F_SETFL),
    NAMED(O_APPEND),
    NAMED(O_CLOEXEC),
    NAMED(O_CREAT),
    NAMED(O_DIRECTORY),
    NAMED(O_EXCL),
    NAMED(O_NOCTTY),
    NAMED(O_NOFOLLOW),
    NAMED(O_NONBLOCK),
    NAMED(O_RDONLY),
    NAMED(O_RDWR),
    NAMED(O_SYNC),
    NAMED(O_TRUNC),
    NAMED(O_WRONLY),
    Constant{"O_DIRECT", 040000},  // a GNU extension's name; asm-generic/fcntl.h
    Constant{"AT_EMPTY_PATH", 0x1000},
    Constant{"AT_SYMLINK_NOFOLLOW", 0x100},
    // linux/fs.h
    NAMED(BLKGETSIZE64),
    NAMED(BLKPBSZGET),
    NAMED(BLKSSZGET),
    NAMED(FICLONE),
    NAMED(RENAME_EXCHANGE),
    NAMED(RENAME_NOREPLACE),
    Constant{"PAGEMAP_SCAN", kPagemapScan},
    Constant{"PIDFD_SELF", kPidfdSelf},
    // linux/if_tun.h
    NAMED(TUNGETFEATURES),
    NAMED(TUNGETIFF),
    NAMED(TUNSETIFF),
    NAMED(TUNSETOFFLOAD),
    NAMED(TUNSETVNETHDRSZ),
    NAMED(TUNSETVNETLE),
    // linux/kvm.h
    NAMED(KVM_CHECK_EXTENSION),
    NAMED(KVM_CREATE_VCPU),
    NAMED(KVM_CREATE_VM),
    NAMED(KVM_ENABLE_CAP),
    NAMED(KVM_GET_API_VERSION),
    NAMED(KVM_GET_CLOCK),
    NAMED(KVM_GET_DEBUGREGS),
    NAMED(KVM_GET_DIRTY_LOG),
    NAMED(KVM_GET_FPU),
    NAMED(KVM_GET_LAPIC),
    NAMED(KVM_GET_MP_STATE),
    NAMED(KVM_GET_REGS),
    NAMED(KVM_GET_SREGS),
    NAMED(KVM_GET_SREGS2),
    NAMED(KVM_GET_TSC_KHZ),
    NAMED(KVM_GET_VCPU_EVENTS),
    NAMED(KVM_GET_VCPU_MMAP_SIZE),
    NAMED(KVM_GET_XCRS),
    NAMED(KVM_INTERRUPT),
    NAMED(KVM_IOEVENTFD),
    NAMED(KVM_IRQFD),
    NAMED(KVM_KVMCLOCK_CTRL),
    NAMED(KVM_RUN),
    NAMED(KVM_SET_CLOCK),
    NAMED(KVM_SET_DEBUGREGS),
    NAMED(KVM_SET_FPU),
    NAMED(KVM_SET_LAPIC),
    NAMED(KVM_SET_MP_STATE),
    NAMED(KVM_SET_REGS),
    NAMED(KVM_SET_SREGS),
    NAMED(KVM_SET_SREGS2),
    NAMED(KVM_SET_TSC_KHZ),
    NAMED(KVM_SET_TSS_ADDR),
    NAMED(KVM_SET_USER_MEMORY_REGION),
    NAMED(KVM_SET_VCPU_EVENTS),
    NAMED(KVM_SET_XCRS),
    NAMED(KVM_SIGNAL_MSI),
    NAMED(KVM_TRANSLATE),
    // The same, where a flexible array counts in C++ and does not in C, which the kernel is of.
    Constant{"KVM_GET_MSR_INDEX_LIST", _IOWR(KVMIO, 0x02, std::uint32_t)},
    Constant{"KVM_GET_SUPPORTED_CPUID", _IOWR(KVMIO, 0x05, std::uint64_t)},
    Constant{"KVM_SET_GSI_ROUTING", _IOW(KVMIO, 0x6a, std::uint64_t)},
    Constant{"KVM_GET_MSRS", _IOWR(KVMIO, 0x88, std::uint64_t)},
    Constant{"KVM_SET_MSRS", _IOW(KVMIO, 0x89, std::uint64_t)},
    Constant{"KVM_SET_CPUID2", _IOW(KVMIO, 0x90, std::uint64_t)},
    Constant{"KVM_GET_CPUID2", _IOWR(KVMIO, 0x91, std::uint64_t)},
    Constant{"KVM_GET_XSAVE", _IOR(KVMIO, 0xa4, XsaveArea)},
    Constant{"KVM_SET_XSAVE", _IOW(KVMIO, 0xa5, XsaveArea)},
    Constant{"KVM_GET_XSAVE2", _IOR(KVMIO, 0xcf, XsaveArea)},
    // linux/seccomp.h
    NAMED(SECCOMP_SET_MODE_FILTER),
    // linux/userfaultfd.h
    NAMED(UFFDIO_API),
    NAMED(UFFDIO_COPY),
    NAMED(UFFDIO_REGISTER),
    NAMED(UFFDIO_UNREGISTER),
    NAMED(UFFDIO_WAKE),
    Constant{"USERFAULTFD_IOC_NEW", 0xaa00},  // of Linux 6.1
    // linux/io_uring.h
    NAMED(IORING_REGISTER_ENABLE_RINGS),
    NAMED(IORING_REGISTER_FILES2),
    NAMED(IORING_REGISTER_FILES_UPDATE),
    NAMED(IORING_REGISTER_RESTRICTIONS),
    NAMED(IORING_UNREGISTER_FILES),
    // sched.h
    NAMED(CLONE_CHILD_CLEARTID),
    NAMED(CLONE_CHILD_SETTID),
    NAMED(CLONE_FILES),
    NAMED(CLONE_FS),
    NAMED(CLONE_PARENT_SETTID),
    NAMED(CLONE_SETTLS),
    NAMED(CLONE_SIGHAND),
    NAMED(CLONE_SYSVSEM),
    NAMED(CLONE_THREAD),
    NAMED(CLONE_VM),
    // signal.h
    NAMED(SIGABRT),
    NAMED(SIGBUS),
    NAMED(SIGCHLD),
    NAMED(SIGFPE),
    NAMED(SIGHUP),
    NAMED(SIGILL),
    NAMED(SIGKILL),
    NAMED(SIGQUIT),
    NAMED(SIGSEGV),
    NAMED(SIGURG),
    NAMED(SIG_SETMASK),
    Constant{"SIGSETXID", 33},  // of the two that glibc keeps for itself; nptl(7)
    // sys/mman.h
    NAMED(MADV_DOFORK),
    NAMED(MADV_DONTDUMP),
    NAMED(MADV_DONTFORK),
    NAMED(MADV_DONTNEED),
    NAMED(MADV_HUGEPAGE),
    NAMED(MADV_NOHUGEPAGE),
    NAMED(MADV_NORMAL),
    NAMED(MADV_POPULATE_WRITE),
    NAMED(MADV_RANDOM),
    NAMED(MADV_WIPEONFORK),
    NAMED(MAP_ANONYMOUS),
    NAMED(MAP_FIXED),
    NAMED(MAP_HUGETLB),
    NAMED(MAP_NORESERVE),
    NAMED(MAP_POPULATE),
    NAMED(MAP_PRIVATE),
    NAMED(MAP_SHARED),
    NAMED(MAP_STACK),
    NAMED(MFD_CLOEXEC),
    NAMED(MREMAP_MAYMOVE),
    NAMED(PROT_EXEC),
    NAMED(PROT_NONE),
    NAMED(PROT_READ),
    NAMED(PROT_WRITE),
    // sys/prctl.h
    NAMED(PR_SET_NAME),
    NAMED(PR_SET_PDEATHSIG),
    // sys/wait.h
    NAMED(WEXITED),
    NAMED(WNOHANG),
    Constant{"P_PIDFD", 3},  // younger than some headers
    Constant{"__WALL", 0x40000000},
    // sys/resource.h
    NAMED(RUSAGE_SELF),
    // sys/socket.h
    NAMED(AF_UNIX),
    NAMED(MSG_NOSIGNAL),
    NAMED(SHUT_WR),
    NAMED(SOL_SOCKET),
    NAMED(SO_SNDTIMEO),
    NAMED(SOCK_CLOEXEC),
    NAMED(SOCK_DGRAM),
    NAMED(SOCK_NONBLOCK),
    NAMED(SOCK_STREAM),
};

#undef NAMED

}  // namespace

std::optional<std::uint64_t> constant_named(std::string_view name) {
  const auto found = std::ranges::find(kConstants, name, &Constant::name);
  if (found == kConstants.end()) return std::nullopt;
  return found->value;
}

}  // namespace mayfly::seccomp
