#include "rootfs-tools/init/setup.h"

#include "rootfs-tools/init/message.h"

#include <fcntl.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>

namespace mayfly::guest_init {
namespace {

// Mayfly's boot timer: a write of this value stops the watch.
constexpr std::uint16_t kBootTimerPort = 0x3F0;
constexpr std::uint8_t kBootTimerValue = 123;

constexpr const char* kModuleList = "/lib/modules-to-load";
constexpr std::size_t kModuleListLimit = 16 * 1024;

constexpr std::array kKernelMounts{
    MountPoint{"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr},
    MountPoint{"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr},
    MountPoint{"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
    MountPoint{"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
};
constexpr std::array kScratchMounts{
    MountPoint{"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"},
    MountPoint{"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"},
};

void load_module(char* line) {
  char* parameters = strchr(line, ' ');
  if (parameters != nullptr) *parameters++ = '\0';
  const int fd = open(line, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return print_failure("cannot open module", line, errno);
  const long result = syscall(SYS_finit_module, fd, parameters != nullptr ? parameters : "", 0);
  if (result != 0 && errno != EEXIST) print_failure("cannot load module", line, errno);
  close(fd);
}

std::uint64_t uptime_ms() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000 + static_cast<std::uint64_t>(now.tv_nsec) / 1'000'000;
}

std::uint64_t memory_mib() {
  struct sysinfo info{};
  sysinfo(&info);
  return static_cast<std::uint64_t>(info.totalram) * info.mem_unit >> 20;
}

}  // namespace

void mount_all(std::span<const MountPoint> points) {
  for (const auto& point : points) {
    mkdir(point.target, 0755);  // mostly there already; where it cannot be made, mount() says so
    // EBUSY: the kernel has mounted /dev itself (CONFIG_DEVTMPFS_MOUNT).
    if (mount(point.type, point.target, point.type, point.flags, point.options) != 0 && errno != EBUSY &&
        !(point.may_lack && errno == ENODEV)) {
      print_failure("cannot mount", point.target, errno);
    }
  }
}

void mount_kernel() { mount_all(kKernelMounts); }
void mount_scratch() { mount_all(kScratchMounts); }

void open_console() {
  int fd = open("/dev/console", O_RDWR | O_NOCTTY);
  if (fd < 0) fd = open("/dev/null", O_RDWR);
  if (fd < 0) return;
  for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; ++stream) {
    if (fd != stream) dup2(fd, stream);
  }
  if (fd > STDERR_FILENO) close(fd);
}

void raise_limits() {
  // The soft limit stays at what select() can take. The hard limit is fs.nr_open, the highest that the kernel takes.
  constexpr rlimit files{.rlim_cur = 1024, .rlim_max = 1 << 20};
  if (setrlimit(RLIMIT_NOFILE, &files) != 0) print_failure("cannot set the limit of", "open files", errno);
}

void load_modules() {
  static std::array<char, kModuleListLimit + 1> buffer;
  const auto list = read_file(kModuleList, std::span{buffer}.first(kModuleListLimit));
  if (!list) {
    if (errno != ENOENT) print_failure("cannot read", kModuleList, errno);
    return;
  }
  if (list->size() == kModuleListLimit) (Message{} << kModuleList << " is longer than 16 KiB: cut").print();
  buffer[list->size()] = '\0';
  char* rest = buffer.data();
  while (char* line = strsep(&rest, "\n")) {
    if (*line != '\0' && *line != '#') load_module(line);
  }
}

void write_port(std::uint16_t port, std::uint8_t value) {
  if (ioperm(port, 1, 1) == 0) {
    outb(value, port);
    ioperm(port, 1, 0);
    return;
  }
  const int fd = open("/dev/port", O_WRONLY | O_CLOEXEC);
  if (fd < 0 || pwrite(fd, &value, 1, port) != 1) print_failure("cannot write to", "I/O ports", errno);
  if (fd >= 0) close(fd);
}

void announce_ready() {
  write_port(kBootTimerPort, kBootTimerValue);
  const std::uint64_t uptime = uptime_ms();  // first: counting CPUs reads a file
  const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  (Message{} << "ready uptime_ms=" << uptime << " cpus=" << static_cast<std::uint64_t>(cpus > 0 ? cpus : 0)
             << " memory_mib=" << memory_mib())
      .print();
}

}  // namespace mayfly::guest_init
