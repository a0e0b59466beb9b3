#include "rootfs-tools/init/image_root.h"

#include "rootfs-tools/init/ending.h"
#include "rootfs-tools/init/message.h"
#include "rootfs-tools/init/network.h"
#include "rootfs-tools/init/setup.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>

namespace mayfly::guest_init {
namespace {

// In the initramfs.
constexpr const char* kRunFile = "/mayfly/run";
constexpr const char* kAgent = "/mayfly/agent";
constexpr const char* kBase = "/mayfly/base";
constexpr const char* kLayer = "/mayfly/layer";
constexpr const char* kLayerData = "/mayfly/layer/data";
constexpr const char* kLayerWork = "/mayfly/layer/work";
constexpr const char* kRoot = "/mayfly/root";
constexpr const char* kOverlayOptions = "lowerdir=/mayfly/base,upperdir=/mayfly/layer/data,workdir=/mayfly/layer/work";

constexpr int kDriveMs = 2000;  // for a driver that finds its drives late
constexpr timespec kMoment{.tv_sec = 0, .tv_nsec = 1'000'000};

/// A word of the command line as C takes it.
using DeviceName = std::array<char, 256>;

bool copy_name(std::string_view name, DeviceName& copy) {
  if (name.size() >= copy.size()) {
    (Message{} << "the device's name has over 255 bytes: " << name).print();
    return false;
  }
  std::memcpy(copy.data(), name.data(), name.size());
  copy[name.size()] = '\0';
  return true;
}

bool mount_drive(const char* device, const char* target, std::span<const char* const> types, unsigned long flags) {
  for (int waited_ms = 0; access(device, F_OK) != 0 && waited_ms < kDriveMs; ++waited_ms) nanosleep(&kMoment, nullptr);
  for (const char* type : types)
    if (mount(device, target, type, flags, nullptr) == 0) return true;
  print_failure("cannot mount", device, errno);
  return false;
}

/// The root directory is the layer's, and looks as the base's.
bool make_layer() {
  struct stat base{};
  if (mkdir(kLayerData, 0755) != 0 && errno != EEXIST) {
    print_failure("cannot make", kLayerData, errno);
    return false;
  }
  if (stat(kBase, &base) == 0 &&
      (chown(kLayerData, base.st_uid, base.st_gid) != 0 || chmod(kLayerData, base.st_mode & 07777) != 0))
    print_failure("cannot set the owner of", kLayerData, errno);
  if (mkdir(kLayerWork, 0700) != 0 && errno != EEXIST) {
    print_failure("cannot make", kLayerWork, errno);
    return false;
  }
  return true;
}

bool mount_image(const Orders& orders) {
  for (const char* directory : {"/mayfly", kBase, kLayer, kRoot}) mkdir(directory, 0755);
  static DeviceName device;
  constexpr std::array base_types{"squashfs", "erofs"};
  if (!copy_name(orders.image, device) || !mount_drive(device.data(), kBase, base_types, MS_RDONLY)) return false;
  if (orders.overlay.empty()) {
    if (mount("tmpfs", kLayer, "tmpfs", 0, "mode=0755") != 0) {
      print_failure("cannot mount", kLayer, errno);
      return false;
    }
  } else {
    constexpr std::array layer_types{"ext4"};
    if (!copy_name(orders.overlay, device) || !mount_drive(device.data(), kLayer, layer_types, 0)) return false;
    also_remount_at_the_end(open(kLayer, O_PATH | O_DIRECTORY | O_CLOEXEC));
  }
  if (!make_layer()) return false;
  if (mount("overlay", kRoot, "overlay", 0, kOverlayOptions) == 0) return true;
  print_failure("cannot mount", kRoot, errno);
  return false;
}

/// An initramfs cannot be unmounted: it stays below the new root.
bool move_to_root() {
  if (chdir(kRoot) == 0 && mount(".", "/", nullptr, MS_MOVE, nullptr) == 0 && chroot(".") == 0 && chdir("/") == 0)
    return true;
  print_failure("cannot move to", kRoot, errno);
  return false;
}

/// Whether the image has put nothing there.
bool is_empty(const char* path) {
  DIR* const directory = opendir(path);
  if (directory == nullptr) return true;
  bool empty = true;
  while (const dirent* entry = readdir(directory))
    empty = empty && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0);
  closedir(directory);
  return empty;
}

/// A tmpfs with owner and mode of the image's directory, in which a program of that owner makes its socket.
void mount_run() {
  constexpr const char* kRun = "/run";
  constexpr std::array run{MountPoint{"tmpfs", kRun, MS_NOSUID | MS_NODEV, "mode=0755"}};
  struct stat image{};
  const bool is_there = stat(kRun, &image) == 0;
  mount_all(run);
  if (is_there && (chown(kRun, image.st_uid, image.st_gid) != 0 || chmod(kRun, image.st_mode & 07777) != 0))
    print_failure("cannot set owner and mode of", kRun, errno);
}

void mount_in_image() {
  constexpr std::array points{
      MountPoint{"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
      MountPoint{"mqueue", "/dev/mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr, true},
      MountPoint{"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate", true},
  };
  mount_kernel();
  mount_all(points);
  // An image that has prepared its /run would not find what it put there.
  if (is_empty("/run")) mount_run();
  mkdir("/tmp", 0777);
  struct stat tmp{};
  if (stat("/tmp", &tmp) == 0 && tmp.st_uid == 0 && (tmp.st_mode & 0777) != 0777) chmod("/tmp", 01777);
  // As containers have them.
  constexpr std::array<std::array<const char*, 2>, 4> links{{{"/proc/self/fd", "/dev/fd"},
                                                             {"/proc/self/fd/0", "/dev/stdin"},
                                                             {"/proc/self/fd/1", "/dev/stdout"},
                                                             {"/proc/self/fd/2", "/dev/stderr"}}};
  for (const auto& [target, link] : links)
    if (symlink(target, link) != 0 && errno != EEXIST) print_failure("cannot make", link, errno);
}

/// What the initramfs has for the image. False: its run file is wrong.
bool take_files(Image& image) {
  image.agent = open(kAgent, O_PATH | O_CLOEXEC);
  image.run_file = open(kRunFile, O_RDONLY | O_CLOEXEC);
  if (image.run_file < 0) return true;
  static std::array<char, kRunFileLimit + 1> text;  // `run` points into it
  const auto read = read_file(kRunFile, text);
  if (!read || read->size() > kRunFileLimit) {
    print_failure("cannot read", kRunFile, read ? EFBIG : errno);
    return false;
  }
  const auto wrong = parse_run_file(*read, image.run);
  if (wrong) (Message{} << kRunFile << ": '" << upto(*wrong, 100) << "' is not understood").print();
  return !wrong;
}

}  // namespace

bool enter_image(const Orders& orders, Image& image) {
  if (!take_files(image) || !mount_image(orders) || !move_to_root()) return false;
  mount_in_image();
  set_up_network(orders);
  return true;
}

}  // namespace mayfly::guest_init
