#include "jailer/privileges.h"

#include "jailer/small_file.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <vector>

namespace mayfly::jailer {
namespace {

Status check_mapped(const char* file, std::string_view field, std::uint32_t number) {
  auto map = read_at(AT_FDCWD, file);
  if (!map) return propagate(map);
  if (is_mapped(*map, number)) return {};
  return fail(ErrorKind::InvalidArgument, "{} {} does not exist in this user namespace; {} lists what does", field,
              number, file);
}

Status set_limit(__rlimit_resource resource, std::string_view name, std::uint64_t value) {
  const rlimit limit{.rlim_cur = value, .rlim_max = value};
  if (::setrlimit(resource, &limit) == 0) return {};
  return fail_errno(ErrorKind::System, "--resource-limit {}={} cannot be set", name, value);
}

/// The caller's keyring may hold keys that the monitor must not read. A kernel without keys has nothing to leak. EPERM
/// comes from a system call filter, which applies to the monitor, too.
Status leave_session_keyring() {
  if (::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr) >= 0 || errno == ENOSYS || errno == EPERM) return {};
  return fail_errno(ErrorKind::System, "cannot leave the caller's session keyring");
}

Status drop_bounding_set() {
  // The kernel may know more capabilities than its headers at our build did; EINVAL is behind its last.
  unsigned long capability = 0;
  while (::prctl(PR_CAPBSET_DROP, capability) == 0) ++capability;
  if (errno != EINVAL) return fail_errno(ErrorKind::System, "cannot drop the capability {} for ever", capability);
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
    return fail_errno(ErrorKind::System, "cannot clear the ambient capabilities");
  return {};
}

}  // namespace

bool is_mapped(std::string_view map, std::uint32_t number) {
  for (const std::string_view line : split(map, '\n')) {
    std::array<std::uint64_t, 3> fields{};  // first inside, first outside, how many
    std::size_t count = 0;
    for (const std::string_view word : split(line, ' '))
      if (!word.empty() && count < fields.size())
        std::from_chars(word.data(), word.data() + word.size(), fields.at(count++));
    if (number >= fields[0] && number - fields[0] < fields[2]) return true;
  }
  return false;
}

Status check_user(uid_t uid, gid_t gid) {
  if (auto there = check_mapped("/proc/self/uid_map", "--uid", uid); !there) return there;
  return check_mapped("/proc/self/gid_map", "--gid", gid);
}

Status set_limits(const ResourceLimits& limits) {
  if (limits.file_size)
    if (auto set = set_limit(RLIMIT_FSIZE, "fsize", *limits.file_size); !set) return set;
  return set_limit(RLIMIT_NOFILE, "no-file", limits.open_files);
}

Status drop_privileges(uid_t uid, gid_t gid) {
  if (auto left = leave_session_keyring(); !left) return left;
  if (auto dropped = drop_bounding_set(); !dropped) return dropped;
  // System calls, since the C library's functions of these names change all threads.
  if (::syscall(SYS_setgroups, 0, nullptr) != 0)
    return fail_errno(ErrorKind::System, "cannot leave the supplementary groups");
  if (::syscall(SYS_setresgid, gid, gid, gid) != 0) return fail_errno(ErrorKind::System, "cannot become --gid {}", gid);
  if (::syscall(SYS_setresuid, uid, uid, uid) != 0) return fail_errno(ErrorKind::System, "cannot become --uid {}", uid);
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  const std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> none{};
  if (::syscall(SYS_capset, &header, none.data()) != 0)
    return fail_errno(ErrorKind::System, "cannot drop the capabilities");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail_errno(ErrorKind::System, "cannot set no_new_privs");
  return {};
}

}  // namespace mayfly::jailer
