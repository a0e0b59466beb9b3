#include "jailer/namespaces.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

/// A copy of a mount that is nowhere yet.
OwnedFd copy_mount(int directory, const char* path, unsigned flags) {
  return OwnedFd{::open_tree(directory, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags)};
}

bool mount_on(const OwnedFd& mount, int directory) {
  return ::move_mount(mount.get(), "", directory, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) == 0;
}

/// Snapshots need /proc/self/pagemap. A /proc would show all processes of the same user; this shows one. Read-only, so
/// that no file in it, such as mem, is a way around memory protection.
Status mount_proc_self(int root) {
  const OwnedFd self = copy_mount(AT_FDCWD, "/proc/self", 0);
  const OwnedFd place{::openat(root, "proc/self", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  if (!self || !place || ::mount_setattr(self.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0 ||
      !mount_on(self, place.get()))
    return fail_errno(ErrorKind::System, "cannot mount /proc/self in the jail; is /proc mounted?");
  return {};
}

}  // namespace

Result<OwnedFd> enter_own_mounts() {
  OwnedFd before{::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC)};
  if (!before) return fail_errno(ErrorKind::System, "cannot open /proc/self/ns/mnt; is /proc mounted?");
  if (::unshare(CLONE_NEWNS) != 0)
    return fail_errno(ErrorKind::System, "cannot make a mount namespace; mayfly-jailer must be run by root");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return fail_errno(ErrorKind::System, "cannot make the mounts private");
  return before;
}

void return_to_mounts(const OwnedFd& mounts) noexcept {
  // Threads that share their root directory may not change the namespace.
  (void)::unshare(CLONE_FS);
  (void)::setns(mounts.get(), CLONE_NEWNS);
}

Status enter_root(int directory) {
  // pivot_root wants a mount, other than the one in which the directory is.
  const OwnedFd root = copy_mount(directory, "", AT_EMPTY_PATH | AT_RECURSIVE);
  if (!root || !mount_on(root, directory)) return fail_errno(ErrorKind::System, "cannot mount the jail on itself");
  if (auto mounted = mount_proc_self(root.get()); !mounted) return mounted;
  // With both names ".", the old root ends on top of the new one, and is what umount finds there (pivot_root(2)).
  if (::fchdir(root.get()) != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0 || ::umount2(".", MNT_DETACH) != 0 ||
      ::chdir("/") != 0)
    return fail_errno(ErrorKind::System, "cannot make the jail the root directory");
  return {};
}

Result<OwnedFd> open_netns(const std::string& path) {
  OwnedFd netns{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (!netns)
    return fail_errno(ErrorKind::NotFound, "--netns {} cannot be opened; ip netns add makes /run/netns/NAME", path);
  if (::ioctl(netns.get(), NS_GET_NSTYPE) != CLONE_NEWNET)
    return fail(ErrorKind::InvalidArgument, "--netns {} is not a network namespace", path);
  return netns;
}

Status join_netns(const OwnedFd& netns) {
  if (::setns(netns.get(), CLONE_NEWNET) == 0) return {};
  return fail_errno(ErrorKind::System, "cannot join the network namespace of --netns");
}

}  // namespace mayfly::jailer
