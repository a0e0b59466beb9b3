#include "tests/attacks/back_door.h"

#include "vmm/kvm/abi.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <string>

#include <fmt/format.h>

namespace mayfly {

/// The ring itself, past what Ring does with it: its owner's memory is the attacker's.
class RingAttacker {
 public:
  [[nodiscard]] static io_uring& ring_of(Ring& ring) { return ring.ring_; }
};

namespace back_door {
namespace {

/// Set before any thread is made.
std::string attacker;   // NOLINT: a test's binary
std::string attempted;  // NOLINT: the same

int outcome(long result) { return result < 0 ? errno : 0; }

constexpr pid_t kSomebody = 1;
constexpr long kPage = 4096;

template <typename... Words>
int call(long number, Words... words) {
  return outcome(::syscall(number, words...));
}

int execute(EventLoop&) {
  const std::array<const char*, 2> words = {"/bin/sh", nullptr};
  return call(SYS_execve, words[0], words.data(), nullptr);
}

int read_another_process(EventLoop&) {
  std::array<char, 8> bytes{};
  const iovec here{.iov_base = bytes.data(), .iov_len = bytes.size()};
  const iovec there{.iov_base = reinterpret_cast<void*>(0x400000), .iov_len = bytes.size()};
  return call(SYS_process_vm_readv, kSomebody, &here, 1L, &there, 1L, 0L);
}

int map_code(EventLoop&) {
  return call(SYS_mmap, 0L, kPage, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
}

int make_code(EventLoop&) {
  void* const page = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return call(SYS_mprotect, page, kPage, PROT_READ | PROT_EXEC);
}

/// So that what is tried next goes unseen.
int handle_violations(EventLoop&) {
  const std::array<std::uint64_t, 4> ignored{};  // the kernel's own struct sigaction: SIG_DFL, no flags
  return call(SYS_rt_sigaction, SIGSYS, ignored.data(), nullptr, sizeof(std::uint64_t));
}

int fork_process(EventLoop&) {
  const long child = ::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (child == 0) ::_exit(0);
  return outcome(child);
}

/// As a live snapshot asks for the child that holds memory.
int fork_quietly(EventLoop&) {
  const long child = ::syscall(SYS_clone, 0, 0, 0, 0, 0);
  if (child == 0) ::_exit(0);
  return outcome(child);
}

int clone_process(EventLoop&) {
  std::array<std::uint64_t, 8> arguments{};
  arguments[4] = SIGCHLD;  // clone_args.exit_signal
  const long child = ::syscall(SYS_clone3, arguments.data(), sizeof arguments);
  if (child == 0) ::_exit(0);
  return outcome(child);
}

int make_ring(EventLoop&) {
  io_uring_params parameters{};
  return call(SYS_io_uring_setup, 8L, &parameters);
}

int load_program(EventLoop&) {
  union bpf_attr attributes{};
  attributes.map_type = BPF_MAP_TYPE_ARRAY;
  attributes.key_size = 4;
  attributes.value_size = 4;
  attributes.max_entries = 1;
  return call(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes);
}

int watch_the_kernel(EventLoop&) {
  perf_event_attr attributes{};
  attributes.size = sizeof attributes;
  return call(SYS_perf_event_open, &attributes, -1L, 0L, -1L, 0L);
}

/// Of no file: a filter sees the request alone, and what it lets through the kernel refuses (EBADF).
template <typename Argument>
int request(unsigned long number, Argument argument) {
  return call(SYS_ioctl, -1L, number, argument);
}

int enable_capability(EventLoop&) {
  kvm_enable_cap capability{};
  return request(KVM_ENABLE_CAP, &capability);
}
int map_memory(EventLoop&) {
  kvm_userspace_memory_region region{};
  return request(KVM_SET_USER_MEMORY_REGION, &region);
}
int set_msrs(EventLoop&) {
  const std::uint64_t none = 0;
  return request(kvm_abi::kSetMsrs, &none);
}
int take_tap(EventLoop&) {
  ifreq wanted{};
  return request(TUNSETIFF, &wanted);
}
int hold_faults(EventLoop&) {
  constexpr unsigned long kNew = 0xaa00;  // USERFAULTFD_IOC_NEW, of Linux 6.1
  return request(kNew, static_cast<long>(O_CLOEXEC));
}
int watch_faults(EventLoop&) {
  uffdio_register range{};
  return request(UFFDIO_REGISTER, &range);
}

int connect_to_neighbour(EventLoop&) {
  const sockaddr_un address{.sun_family = AF_UNIX, .sun_path = "/run/nobody-is-there"};
  return call(SYS_connect, -1L, &address, sizeof address);
}
int make_channel(EventLoop&) { return call(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }
int bind_socket(EventLoop&) {
  const sockaddr_un address{.sun_family = AF_UNIX, .sun_path = "/run/nobody-is-there"};
  return call(SYS_bind, -1L, &address, sizeof address);
}
int send_descriptor(EventLoop&) {
  const msghdr message{};
  return call(SYS_sendmsg, -1L, &message, 0L);
}
int make_thread(EventLoop&) {
  // As the C library asks for one. The kernel refuses: nothing of a thread can be at such addresses.
  return call(SYS_clone,
              CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND | CLONE_THREAD | CLONE_SETTLS |
                  CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID,
              0L, -1L, -1L, -1L);
}

int submit(EventLoop& loop, auto prepare) {
  io_uring& ring = RingAttacker::ring_of(loop);
  io_uring_sqe* const entry = ::io_uring_get_sqe(&ring);
  prepare(*entry);
  ::io_uring_sqe_set_data64(entry, 1);
  if (const int result = ::io_uring_submit(&ring); result < 0) return -result;
  for (;;) {
    io_uring_cqe* completion = nullptr;
    if (const int result = ::io_uring_wait_cqe(&ring, &completion); result < 0) return -result;
    const bool ours = ::io_uring_cqe_get_data64(completion) == 1;
    const int result = completion->res;
    ::io_uring_cqe_seen(&ring, completion);
    if (ours) return result < 0 ? -result : 0;
  }
}

int open_by_ring(EventLoop& loop) {
  return submit(loop, [](io_uring_sqe& entry) { ::io_uring_prep_openat(&entry, AT_FDCWD, "/", O_RDONLY, 0); });
}

int connect_by_ring(EventLoop& loop) {
  return submit(loop, [](io_uring_sqe& entry) { ::io_uring_prep_socket(&entry, AF_INET, SOCK_STREAM, 0, 0); });
}

}  // namespace

const std::vector<Attack>& attacks() {
  static const std::vector<Attack> all = {
      {"open", "openat", [](EventLoop&) { return call(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY); }},
      {"execute", "execve", execute},
      {"socket", "socket", [](EventLoop&) { return call(SYS_socket, AF_INET, SOCK_STREAM, 0); }},
      {"ptrace", "ptrace", [](EventLoop&) { return call(SYS_ptrace, PTRACE_ATTACH, kSomebody, 0L, 0L); }},
      {"mount", "mount", [](EventLoop&) { return call(SYS_mount, "none", "/", "tmpfs", 0L, 0L); }},
      {"setns", "setns", [](EventLoop&) { return call(SYS_setns, 0, CLONE_NEWNET); }},
      {"unshare", "unshare", [](EventLoop&) { return call(SYS_unshare, CLONE_NEWUSER); }},
      {"chroot", "chroot", [](EventLoop&) { return call(SYS_chroot, "/"); }},
      {"kill", "kill", [](EventLoop&) { return call(SYS_kill, kSomebody, 0); }},
      {"kill-thread", "tgkill", [](EventLoop&) { return call(SYS_tgkill, kSomebody, kSomebody, 0); }},
      {"read-process", "process_vm_readv", read_another_process},
      {"fork", "clone", fork_process},
      {"fork-quietly", "clone", fork_quietly, true},
      {"clone3", "clone3", clone_process},
      {"map-code", "mmap", map_code},
      {"make-code", "mprotect", make_code},
      {"silence", "rt_sigaction", handle_violations},
      {"ioctl", "ioctl", [](EventLoop&) { return call(SYS_ioctl, STDIN_FILENO, TIOCSTI, "x"); }},
      {"ring", "io_uring_setup", make_ring},
      {"userfaultfd", "userfaultfd", [](EventLoop&) { return call(SYS_userfaultfd, 0L); }},
      {"bpf", "bpf", load_program},
      {"perf", "perf_event_open", watch_the_kernel},
      {"kvm-machine", "ioctl", [](EventLoop&) { return request(KVM_CREATE_VM, 0L); }, true},
      {"kvm-enable", "ioctl", enable_capability, true},
      {"kvm-memory", "ioctl", map_memory, true},
      {"kvm-msrs", "ioctl", set_msrs, true},
      {"tap", "ioctl", take_tap, true},
      {"hold-faults", "ioctl", hold_faults, true},
      {"watch-faults", "ioctl", watch_faults, true},
      {"unix-socket", "socket", [](EventLoop&) { return call(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); },
       true},
      {"connect", "connect", connect_to_neighbour, true},
      {"channel-socket", "socket", make_channel, true},
      {"accept", "accept4", [](EventLoop&) { return call(SYS_accept4, -1L, 0L, 0L, SOCK_CLOEXEC); }, true},
      {"shutdown", "shutdown", [](EventLoop&) { return call(SYS_shutdown, -1L, SHUT_WR); }, true},
      {"bind", "bind", bind_socket, true},
      {"listen", "listen", [](EventLoop&) { return call(SYS_listen, -1L, 1L); }, true},
      {"send", "sendmsg", send_descriptor, true},
      {"thread", "clone", make_thread, true},
      {"filter", "seccomp", [](EventLoop&) { return call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0L, nullptr); }, true},
      {"ring-open", "", open_by_ring},
      {"ring-socket", "", connect_by_ring},
  };
  return all;
}

void take_attack(int& argc, char** argv) {
  char** const end = argv + argc;
  // Not always first: a jailer puts the monitor's own before them.
  char** const flag = std::find(argv, end, std::string_view{"--attack"});
  if (end - flag < 2) return;
  const std::string_view words{flag[1]};
  const std::size_t colon = std::min(words.find(':'), words.size());
  attacker = words.substr(0, colon);
  attempted = words.substr(std::min(colon + 1, words.size()));
  std::copy(flag + 2, end, flag);
  argc -= 2;
}

void attack_from(ThreadKind thread, EventLoop& loop) {
  if (name_of(thread) != attacker) return;
  const auto attack = std::ranges::find(attacks(), attempted, &Attack::name);
  const std::string said = [&] {
    if (attack == attacks().end()) return fmt::format("mayfly-back-door: there is no attack {}\n", attempted);
    const int error_number = attack->attempt(loop);
    return error_number == 0 ? fmt::format("mayfly-back-door: {} went through\n", attempted)
                             : fmt::format("mayfly-back-door: {} refused: {}\n", attempted, errno_text(error_number));
  }();
  [[maybe_unused]] const ssize_t told = ::write(STDERR_FILENO, said.data(), said.size());
  ::_exit(kExitTried);
}

}  // namespace back_door
}  // namespace mayfly
