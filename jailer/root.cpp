#include "jailer/root.h"

#include "jailer/directories.h"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>

namespace mayfly::jailer {
namespace {

struct Owner {
  uid_t uid;
  gid_t gid;
};

/// What is being made, and where.
struct JailDirectory {
  int fd;
  std::string path;
  Undo& undo;

  [[nodiscard]] std::string child(const std::string& name) const { return path + "/" + name; }
  void undo_file(const std::string& name) {
    undo.add([in = duplicate(fd), name] { ::unlinkat(in.get(), name.c_str(), 0); });
  }
};

Status check_mount(int directory, const std::string& path) {
  struct statvfs mount{};
  if (::fstatvfs(directory, &mount) != 0) return fail_errno(ErrorKind::System, "cannot look at {}", path);
  for (const auto& [flag, name] : {std::pair{ST_NOEXEC, "noexec"}, std::pair{ST_NODEV, "nodev"}})
    if ((mount.f_flag & static_cast<unsigned long>(flag)) != 0)
      return fail(ErrorKind::Unsupported,
                  "{} is on a file system that is mounted {}; remount it without, or choose another --chroot-base-dir",
                  path, name);
  return {};
}

Result<OwnedFd> make_file(JailDirectory& place, const std::string& name, mode_t mode) {
  OwnedFd file{::openat(place.fd, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode)};
  if (!file) return fail_errno(ErrorKind::System, "cannot make {}", place.child(name));
  place.undo_file(name);
  return file;
}

Status copy_executable(JailDirectory& root, const Executable& executable) {
  auto copy = make_file(root, executable.name, 0555);
  if (!copy) return propagate(copy);
  off_t offset = 0;
  while (offset < executable.size) {
    const auto left = static_cast<std::size_t>(executable.size - offset);
    // The first can share blocks, the second works between any two file systems.
    ssize_t count = ::copy_file_range(executable.file.get(), &offset, copy->get(), nullptr, left, 0);
    if (count < 0) count = ::sendfile(copy->get(), executable.file.get(), &offset, left);
    if (count < 0) return fail_errno(ErrorKind::System, "cannot copy --exec-file to {}", root.child(executable.name));
    if (count == 0) return fail(ErrorKind::State, "--exec-file became shorter while it was copied");
  }
  return {};
}

/// Where the host lacks it, so does the jail; the monitor says what it misses.
Status make_device(JailDirectory& place, const std::string& name, const char* host_path, Owner owner) {
  struct stat host{};
  if (::stat(host_path, &host) != 0 || !S_ISCHR(host.st_mode)) return {};
  if (::mknodat(place.fd, name.c_str(), S_IFCHR | 0600, host.st_rdev) != 0)
    return fail_errno(ErrorKind::System, "cannot make the device {}", place.child(name));
  place.undo_file(name);
  if (::fchownat(place.fd, name.c_str(), owner.uid, owner.gid, AT_SYMLINK_NOFOLLOW) != 0)
    return fail_errno(ErrorKind::System, "cannot give {} to {}:{}", place.child(name), owner.uid, owner.gid);
  return {};
}

Status make_devices(JailDirectory& root, Owner owner, bool userfaultfd) {
  const auto dev = make_directory(root.fd, "dev", 0755, root.child("dev"), root.undo);
  if (!dev) return std::unexpected(dev.error());
  JailDirectory in_dev{dev->get(), root.child("dev"), root.undo};
  const auto net = make_directory(in_dev.fd, "net", 0755, in_dev.child("net"), root.undo);
  if (!net) return std::unexpected(net.error());
  JailDirectory in_net{net->get(), in_dev.child("net"), root.undo};
  if (auto made = make_device(in_net, "tun", "/dev/net/tun", owner); !made) return made;
  for (const std::string name : {"kvm", "urandom"})
    if (auto made = make_device(in_dev, name, ("/dev/" + name).c_str(), owner); !made) return made;
  // A process that holds the kernel's page faults can keep a race in the kernel open for as long as it wants.
  return userfaultfd ? make_device(in_dev, "userfaultfd", "/dev/userfaultfd", owner) : Status{};
}

/// For overlays: by it a monitor tells whether the host was started again since one was written. At its own place, and
/// root's, in directories that are root's. Without it a monitor refuses overlays, and says so.
Status copy_boot_id(const JailDirectory& proc) {
  const OwnedFd of_host{::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC)};
  std::array<char, 64> id{};
  const ssize_t length = of_host ? ::read(of_host.get(), id.data(), id.size()) : 0;
  if (length <= 0) return {};
  std::string path = proc.path;
  OwnedFd directory = duplicate(proc.fd);
  for (const std::string name : {"sys", "kernel", "random"}) {
    path += "/" + name;
    auto made = make_directory(directory.get(), name, 0555, path, proc.undo);
    if (!made) return propagate(made);
    directory = std::move(*made);
  }
  JailDirectory place{directory.get(), path, proc.undo};
  (void)::unlinkat(place.fd, "boot_id", 0);  // of a jail that was emptied by hand: another boot's
  auto file = make_file(place, "boot_id", 0444);
  if (!file) return propagate(file);
  if (::write(file->get(), id.data(), static_cast<std::size_t>(length)) == length) return {};
  return fail_errno(ErrorKind::System, "cannot write {}", place.child("boot_id"));
}

Status make_proc(JailDirectory& root) {
  const auto proc = make_directory(root.fd, "proc", 0555, root.child("proc"), root.undo);
  if (!proc) return std::unexpected(proc.error());
  const auto self = make_directory(proc->get(), "self", 0555, root.child("proc/self"), root.undo);
  return self ? copy_boot_id(JailDirectory{proc->get(), root.child("proc"), root.undo}) : std::unexpected(self.error());
}

std::string pid_name(const std::string& exec_name) { return exec_name + ".pid"; }

/// By the copy of the monitor or, since a monitor that was taken over can remove that, by what is root's: a process was written
/// down, and the root was given away. A host that prepares a root for a start writes no number.
bool is_taken(int directory, const std::string& exec_name) {
  struct stat copy{}, number{}, root{};
  if (::fstatat(directory, ("root/" + exec_name).c_str(), &copy, AT_SYMLINK_NOFOLLOW) == 0) return true;
  return ::fstatat(directory, pid_name(exec_name).c_str(), &number, AT_SYMLINK_NOFOLLOW) == 0 &&
         ::fstatat(directory, "root", &root, AT_SYMLINK_NOFOLLOW) == 0 && root.st_uid != ::geteuid();
}

/// As whoever mounted /proc sees us, also where we are process 1 of a namespace of our own.
Status write_pid(JailDirectory& place, const std::string& exec_name) {
  std::array<char, 16> number{};
  const ssize_t length = ::readlink("/proc/self", number.data(), number.size());
  if (length < 0) return fail_errno(ErrorKind::System, "cannot read /proc/self; is /proc mounted?");
  const std::string name = pid_name(exec_name);
  auto file = make_file(place, name, 0644);
  if (!file) return propagate(file);
  if (::write(file->get(), number.data(), static_cast<std::size_t>(length)) != length)
    return fail_errno(ErrorKind::System, "cannot write {}", place.child(name));
  return {};
}

Status give_to(const JailDirectory& place, Owner owner) {
  struct stat before{};
  if (::fstat(place.fd, &before) != 0) return fail_errno(ErrorKind::System, "cannot look at {}", place.path);
  place.undo.add([fd = duplicate(place.fd), before] {
    if (::fchown(fd.get(), before.st_uid, before.st_gid) == 0) (void)::fchmod(fd.get(), before.st_mode & 07777);
  });
  if (::fchmod(place.fd, 0700) != 0 || ::fchown(place.fd, owner.uid, owner.gid) != 0)
    return fail_errno(ErrorKind::System, "cannot give {} to {}:{}", place.path, owner.uid, owner.gid);
  return {};
}

/// The last thing given away is the root: until then nobody but us can change what is in it.
Status fill_root(JailDirectory& root, const JailArguments& jail, const Executable& executable) {
  const Owner owner{jail.uid, jail.gid};
  if (auto copied = copy_executable(root, executable); !copied) return copied;
  if (auto made = make_devices(root, owner, jail.allow_userfaultfd); !made) return made;
  if (auto made = make_proc(root); !made) return made;
  if (auto written = write_pid(root, executable.name); !written) return written;
  const auto run = make_directory(root.fd, "run", 0755, root.child("run"), root.undo);
  if (!run) return std::unexpected(run.error());
  if (auto given = give_to({run->get(), root.child("run"), root.undo}, owner); !given) return given;
  return give_to(root, owner);
}

/// Of all jails of one executable: each id has its byte in it, and the file stays empty. No id has a point.
constexpr const char* kLockFile = ".lock";

/// Which byte: the id's FNV-1a hash. Were two ids to share one, their jailers could not work at the same moment.
off_t lock_place(std::string_view id) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char letter : id) hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3;
  return static_cast<off_t>(hash >> 2);  // its end must not be beyond the largest offset
}

}  // namespace

std::string folder_path(std::string_view base, std::string_view exec_name) {
  while (base.ends_with('/')) base.remove_suffix(1);
  return fmt::format("{}/{}", base, exec_name);
}

Result<OwnedFd> lock_id(int folder, const std::string& folder_path, std::string_view id) {
  // Not a lock of the jail's directory: whoever may read that could take it, and the directory can be replaced.
  OwnedFd file{::openat(folder, kLockFile, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600)};
  if (!file) return fail_errno(ErrorKind::System, "cannot open {}/{}", folder_path, kLockFile);
  struct flock one{};
  one.l_type = F_WRLCK;
  one.l_whence = SEEK_SET;
  one.l_start = lock_place(id);
  one.l_len = 1;
  if (::fcntl(file.get(), F_OFD_SETLK, &one) == 0) return file;
  if (errno != EAGAIN && errno != EACCES) return fail_errno(ErrorKind::System, "cannot lock the jail {}", id);
  return fail(ErrorKind::State, "another mayfly-jailer is at work on the jail {}; an id is for one machine", id);
}

Result<JailRoot> make_root(const JailArguments& jail, const Executable& executable, Undo& undo) {
  const std::string shared_path = folder_path(jail.base, executable.name);
  const std::string directory_path = shared_path + "/" + jail.id;
  JailRoot made{.root = {}, .path = directory_path + "/root"};
  const auto base = open_trusted("--chroot-base-dir", jail.base);
  if (!base) return std::unexpected(base.error());
  // All jails of this executable share it, so it stays whatever happens to this one.
  const auto folder = make_directory(base->get(), executable.name, 0755, shared_path);
  if (!folder) return std::unexpected(folder.error());
  auto lock = lock_id(folder->fd.get(), shared_path, jail.id);
  if (!lock) return propagate(lock);
  undo.add([lock = std::move(*lock)] {});
  const auto directory = make_directory(folder->fd.get(), jail.id, 0755, directory_path, undo);
  if (!directory) return std::unexpected(directory.error());
  if (is_taken(directory->get(), executable.name))
    return fail(
        ErrorKind::State,
        "--id {}: there is such a jail already, in {}; choose another id or, if its monitor is gone, remove it with "
        "mayfly-jailer cleanup {}",
        jail.id, directory_path, jail.id);
  // Before the number beside it: a root that is refused may be that of a monitor that runs.
  auto root = make_directory(directory->get(), "root", 0755, made.path, undo);
  if (!root) return propagate(root);
  made.root = std::move(*root);
  if (auto good = check_mount(made.root.get(), made.path); !good) return propagate(good);
  // A jail that was removed by hand, or whose jailer was killed, has left its number there.
  (void)::unlinkat(directory->get(), pid_name(executable.name).c_str(), 0);
  // Where the monitor cannot write. What lies in its root is for clients of the dialect, who look there.
  JailDirectory beside_root{directory->get(), directory_path, undo};
  if (auto written = write_pid(beside_root, executable.name); !written) return propagate(written);
  JailDirectory place{made.root.get(), made.path, undo};
  if (auto filled = fill_root(place, jail, executable); !filled) return propagate(filled);
  return made;
}

}  // namespace mayfly::jailer
