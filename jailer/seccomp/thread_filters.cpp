#include "jailer/seccomp/thread_filters.h"

#include "jailer/seccomp/built_in.h"
#include "jailer/seccomp/violation.h"
#include "vmm/base/files.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <span>
#include <vector>

namespace mayfly::seccomp {
namespace {

/// The runtimes of sanitizers make calls of their own, at times of their own: such a build has no filters.
#if defined(MAYFLY_SANITIZED)
constexpr bool kCanFilter = false;
#else
constexpr bool kCanFilter = true;
#endif

/// For the handler: blocked, SIGSYS would end the process without a word.
void unblock_sigsys() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGSYS);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

Status install(std::span<const sock_filter> program, ThreadKind kind) {
  // A copy, since the original is constant, with our own number where it is wanted. Not on the stack: what is touched
  // there stays resident for as long as the thread.
  std::vector<sock_filter> own{program.begin(), program.end()};
  const auto own_process = static_cast<std::uint32_t>(::getpid());
  for (sock_filter& each : own)
    if (BPF_CLASS(each.code) == BPF_JMP && each.k == kOwnProcess) each.k = own_process;
  const sock_fprog wanted{.len = static_cast<unsigned short>(program.size()), .filter = own.data()};
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &wanted) == 0) return {};
  return fail_errno(ErrorKind::Unsupported,
                    "the kernel refuses the system call filter of thread {}; --no-seccomp does without filters",
                    name_of(kind));
}

}  // namespace

Result<ThreadFilters> ThreadFilters::open(const FilterOptions& options) {
  ThreadFilters filters;
  if (options.off) return filters;
  if (options.file) {
    auto text = read_file(*options.file, "--seccomp-filter " + *options.file, kLargestBlob);
    if (!text) return propagate(text);
    const auto bytes = std::as_bytes(std::span{*text});
    filters.file_.assign(bytes.begin(), bytes.end());
  }
  auto programs = find_programs(options.file ? std::span<const std::byte>{filters.file_} : built_in_blob());
  if (!programs) return propagate(programs, options.file ? "--seccomp-filter " + *options.file : "built-in filters");
  if (kCanFilter) filters.programs_ = *programs;
  return filters;
}

ThreadFilters::~ThreadFilters() {
  if (watching_) stop_reporting_violations();
}

Status ThreadFilters::watch(const Log& log) {
  if (!programs_) return {};
  const std::uint32_t action = SECCOMP_RET_TRAP;
  if (::syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) != 0)
    return fail_errno(ErrorKind::Unsupported,
                      "the kernel has no system call filters (CONFIG_SECCOMP_FILTER is needed; --no-seccomp does "
                      "without filters)");
  // Without it the kernel takes filters from the privileged alone. Threads to come inherit it.
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail_errno(ErrorKind::System, "no_new_privs cannot be set");
  watching_ = true;
  return report_violations(log);
}

void ThreadFilters::watch_inherited(const Log& log) {
  if (!programs_) return;
  watching_ = true;
  log_violations_to(log);
}

Status ThreadFilters::enter(ThreadKind kind) const {
  if (!programs_) return {};
  name_thread_for_violations(kind);
  unblock_sigsys();
  return install(programs_->of(kind), kind);
}

}  // namespace mayfly::seccomp
