#include "vmm/base/error.h"
#include "vmm/doctor/checks.h"
#include "vmm/memory/huge_page_pool.h"

namespace mayfly::doctor {
namespace {

void check_transparent_huge_pages(const HostRoot& root, Findings& findings) {
  const auto setting = root.read("sys/kernel/mm/transparent_hugepage/enabled");
  if (!setting) {
    findings.push_back({Severity::Note, "transparent-huge-pages", "the kernel has no transparent huge pages",
                        "machines boot with pages of 4 KiB, which takes about 1.5 times as long",
                        "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE"});
    return;
  }
  if (setting->contains("[always]"))
    findings.push_back({Severity::Costly, "transparent-huge-pages", "transparent huge pages are on for everybody",
                        "memory of a machine that boots comes in pieces of 2 MiB, also where huge_pages is None: a "
                        "byte that is touched takes 2 MiB, and an idle machine several times its memory",
                        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"});
  else if (setting->contains("[never]"))
    findings.push_back(
        {Severity::Note, "transparent-huge-pages", "transparent huge pages are off",
         "huge_pages Transparent has no effect: a machine that boots takes about 90 times the page faults",
         "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"});
  else
    findings.push_back({Severity::Ok, "transparent-huge-pages", "transparent huge pages are for who asks", "", ""});
}

void check_huge_page_pool(const HostRoot& root, Findings& findings) {
  constexpr const char* kName = "huge-page-pool";
  const auto pool = read_huge_page_pool(root.path(kHugePagePoolPath.substr(1)));
  if (!pool) return;
  const std::string more = fmt::format("echo N > {}/nr_hugepages (2 MiB each)", kHugePagePoolPath);
  if (pool->total == 0)
    findings.push_back(
        {Severity::Note, kName, "no huge pages are reserved", "machines with huge_pages 2M do not start", more});
  else if (pool->available() == 0)
    findings.push_back({Severity::Note, kName,
                        fmt::format("all {} huge pages are taken by, or promised to, processes that run", pool->total),
                        "no other machine with huge_pages 2M starts", more});
  else
    findings.push_back({Severity::Ok, kName,
                        fmt::format("{} of {} huge pages are there for new machines", pool->available(), pool->total),
                        "", ""});
}

void check_swap(const HostRoot& root, Findings& findings) {
  const auto swaps = root.read("proc/swaps");
  if (!swaps) return;
  // The first line is the heading.
  if (!swaps->contains('\n')) {
    findings.push_back({Severity::Ok, "swap", "there is no swap space", "", ""});
    return;
  }
  findings.push_back({Severity::Note, "swap", "there is swap space",
                      "a page of an idle machine that was swapped out comes back at the speed of the disk: a function "
                      "that is called after a while answers late; and guests' memory is on the disk, also after they "
                      "have ended",
                      "swapoff -a, or memory.swap.max=0 in the machines' control group"});
}

void check_overcommit(const HostRoot& root, Findings& findings) {
  const auto mode = root.read_number("proc/sys/vm/overcommit_memory");
  if (!mode) return;
  if (*mode != 2) {
    findings.push_back({Severity::Ok, "overcommit", fmt::format("vm.overcommit_memory is {}", *mode), "", ""});
    return;
  }
  findings.push_back({Severity::Costly, "overcommit", "vm.overcommit_memory is 2 (strict)",
                      "the kernel does not heed MAP_NORESERVE: each machine takes its whole memory out of the commit "
                      "limit, touched or not, so far fewer fit",
                      "sysctl vm.overcommit_memory=0, or a higher vm.overcommit_ratio"});
}

void check_page_merging(const HostRoot& root, Findings& findings) {
  const auto run = root.read_number("sys/kernel/mm/ksm/run");
  if (!run) return;
  if (*run != 1) {
    findings.push_back({Severity::Ok, "page-merging", "equal pages are not merged (KSM is off)", "", ""});
    return;
  }
  findings.push_back({Severity::Note, "page-merging", "equal pages are merged (KSM is on)",
                      "a tenant can tell by the time of a write which pages others have, and a kernel thread takes CPU "
                      "time; Mayfly does not ask for it",
                      "where tenants do not trust each other: echo 2 > /sys/kernel/mm/ksm/run"});
}

void check_user_faults(const HostRoot& root, const HostCalls& calls, Findings& findings) {
  constexpr std::string_view kDevice = "dev/userfaultfd";
  const int error = calls.try_user_faults(root.path(kDevice));
  if (error == 0) {
    findings.push_back({Severity::Ok, "user-faults", "user faults work", "", ""});
    return;
  }
  findings.push_back(
      {Severity::Note, "user-faults", fmt::format("user faults cannot be used: {}", errno_text(error)),
       "memory images that are elsewhere (fetched page by page) cannot be restored; images in local files "
       "do not need it",
       root.exists(kDevice) ? "setfacl -m u:USER:rw /dev/userfaultfd"
                            : "sysctl vm.unprivileged_userfaultfd=1, or Linux 6.1 or later, which has "
                              "/dev/userfaultfd"});
}

}  // namespace

void check_memory(const HostRoot& root, const HostCalls& calls, Findings& findings) {
  check_transparent_huge_pages(root, findings);
  check_huge_page_pool(root, findings);
  check_swap(root, findings);
  check_overcommit(root, findings);
  check_page_merging(root, findings);
  check_user_faults(root, calls, findings);
}

}  // namespace mayfly::doctor
