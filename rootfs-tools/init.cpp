// mayfly-guest-init: PID 1 of a microVM, and nothing more.
//
// In order, it
//   1. mounts /proc, /sys, /dev, /dev/pts, /tmp and /run where they are not mounted yet;
//   2. gives itself and its children /dev/console as standard input, output and error;
//   3. loads the kernel modules that /lib/modules-to-load lists (one a line: path, then parameters), if it exists;
//   4. writes 123 to I/O port 0x3F0, Mayfly's boot timer;
//   5. prints one line, which tests and benchmarks parse:
//          mayfly-init: ready uptime_ms=<CLOCK_BOOTTIME> cpus=<online> memory_mib=<MemTotal>
//   6. runs a command, or a shell on the console, and reaps every orphan meanwhile;
//   7. prints `mayfly-init: command exited with status N` (or `... was killed by signal N`) and ends the machine.
//
// What the kernel's command line may say:
//   mayfly.run="COMMAND"   run by `/bin/sh -c`; up to the next double quote, as the kernel quotes. Default: a shell
//   mayfly.end=HOW         poweroff (default), reboot, halt or panic
//
// Signals, as busybox's init has them: SIGUSR1 halt, SIGUSR2 power off, SIGTERM reboot, SIGINT (ctrl-alt-del) reboot.
//
// It is a static binary that uses of C++ what needs no run-time library: no exceptions, no allocation, no iostreams.

#include "command_line.h"

#include <fcntl.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>
#include <span>
#include <string_view>

namespace {

using namespace mayfly::guest_init;

// Mayfly's boot timer: a write of this value stops the watch.
constexpr std::uint16_t kBootTimerPort = 0x3F0;
constexpr std::uint8_t kBootTimerValue = 123;

// Mayfly's ACPI sleep control register. SLP_TYP is bits 2-4 and SLP_EN bit 5 (ACPI 6.4, 4.8.3.7); type 5 is soft off.
constexpr std::uint16_t kSleepControlPort = 0x600;
constexpr std::uint8_t kSleepControlSoftOff = (5 << 2) | (1 << 5);

constexpr const char* kModuleList = "/lib/modules-to-load";
constexpr std::size_t kModuleListLimit = 16 * 1024;
constexpr std::size_t kCommandLineLimit = 4096;  // COMMAND_LINE_SIZE of x86 is 2048
constexpr std::size_t kMessageLimit = 512;

// How long processes may take to leave after SIGTERM, before SIGKILL; and how long the console may take to send its
// rest.
constexpr int kFarewellMs = 500;
constexpr int kConsoleMs = 2000;
constexpr timespec kMillisecond{.tv_sec = 0, .tv_nsec = 1'000'000};

// ---------------------------------------------------------------------------------------------------------------
// Text: one message is one write, so that lines of several processes do not mix on the console.

class Message {
 public:
  Message() { *this << "mayfly-init: "; }

  Message& operator<<(std::string_view text) {
    const std::size_t room = text_.size() - 1 - length_;  // one byte stays free for the line's end
    const std::size_t count = text.size() < room ? text.size() : room;
    std::memcpy(text_.data() + length_, text.data(), count);
    length_ += count;
    return *this;
  }

  Message& operator<<(std::uint64_t number) {
    std::array<char, 20> digits;
    const char* end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
    return *this << std::string_view{digits.data(), static_cast<std::size_t>(end - digits.data())};
  }

  /// Sends the line. A console that is gone is no reason to stop.
  void print() {
    text_[length_++] = '\n';
    for (std::size_t sent = 0; sent < length_;) {
      const ssize_t count = write(STDERR_FILENO, text_.data() + sent, length_ - sent);
      if (count <= 0 && errno != EINTR) return;
      if (count > 0) sent += static_cast<std::size_t>(count);
    }
  }

 private:
  std::array<char, kMessageLimit> text_;
  std::size_t length_ = 0;
};

void print_failure(std::string_view what, std::string_view name, int error) {
  (Message{} << what << " " << name << ": " << std::string_view{strerror(error)}).print();
}

/// The whole of a small file, cut at the buffer's end; nullopt with errno set where it cannot be opened.
std::optional<std::string_view> read_file(const char* path, std::span<char> buffer) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  std::size_t length = 0;
  while (length < buffer.size()) {
    const ssize_t count = read(fd, buffer.data() + length, buffer.size() - length);
    if (count <= 0) break;
    length += static_cast<std::size_t>(count);
  }
  close(fd);
  return std::string_view{buffer.data(), length};
}

// ---------------------------------------------------------------------------------------------------------------
// The kernel's command line

Orders read_orders(std::span<char> buffer) {
  const auto line = read_file("/proc/cmdline", buffer);
  if (!line) {
    print_failure("cannot read", "/proc/cmdline", errno);
    return {};
  }
  const Orders orders = parse_orders(*line);
  if (!orders.unknown_end.empty()) {
    (Message{} << "mayfly.end=" << orders.unknown_end << " is not poweroff, reboot, halt or panic: will power off")
        .print();
  }
  return orders;
}

// ---------------------------------------------------------------------------------------------------------------
// Setting up

struct MountPoint {
  const char* type;
  const char* target;
  unsigned long flags;
  const char* options;
};

constexpr std::array kMountPoints{
    MountPoint{"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr},
    MountPoint{"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr},
    MountPoint{"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
    MountPoint{"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
    MountPoint{"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"},
    MountPoint{"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"},
};

void mount_all() {
  for (const auto& point : kMountPoints) {
    mkdir(point.target, 0755);  // mostly there already; where it cannot be made, mount() says so
    // EBUSY: the kernel has mounted /dev itself (CONFIG_DEVTMPFS_MOUNT).
    if (mount(point.type, point.target, point.type, point.flags, point.options) != 0 && errno != EBUSY) {
      print_failure("cannot mount", point.target, errno);
    }
  }
}

/// An initramfs may come without a console node, and then the kernel has started us without standard streams: open
/// the one of the devtmpfs, always. A machine without any console gets /dev/null.
void open_console() {
  int fd = open("/dev/console", O_RDWR | O_NOCTTY);
  if (fd < 0) fd = open("/dev/null", O_RDWR);
  if (fd < 0) return;
  for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; ++stream) {
    if (fd != stream) dup2(fd, stream);
  }
  if (fd > STDERR_FILENO) close(fd);
}

void load_module(char* line) {
  char* parameters = strchr(line, ' ');
  if (parameters != nullptr) *parameters++ = '\0';
  const int fd = open(line, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return print_failure("cannot open module", line, errno);
  const long result = syscall(SYS_finit_module, fd, parameters != nullptr ? parameters : "", 0);
  if (result != 0 && errno != EEXIST) print_failure("cannot load module", line, errno);
  close(fd);
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

// ---------------------------------------------------------------------------------------------------------------
// Ports

/// Writes one byte to an I/O port: directly, or through /dev/port on a kernel without ioperm().
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

// ---------------------------------------------------------------------------------------------------------------
// Ready

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

void announce_ready() {
  const std::uint64_t uptime = uptime_ms();  // first: counting CPUs reads a file
  const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  (Message{} << "ready uptime_ms=" << uptime << " cpus=" << static_cast<std::uint64_t>(cpus > 0 ? cpus : 0)
             << " memory_mib=" << memory_mib())
      .print();
}

// ---------------------------------------------------------------------------------------------------------------
// The end

void remount_root_read_only() {
  // A file system that is left mounted writable is replayed, and maybe refused, at the next start.
  sync();
  mount(nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
}

/// Asks every process to leave, then makes it.
void dismiss_processes() {
  kill(-1, SIGTERM);
  for (int waited_ms = 0; waited_ms < kFarewellMs; ++waited_ms) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (kill(-1, 0) != 0) return;  // ESRCH: we are alone
    nanosleep(&kMillisecond, nullptr);
  }
  kill(-1, SIGKILL);
}

/// The serial driver sends by interrupt, and a machine that is off sends no more. Bounded, for a port without
/// interrupts.
void flush_console() {
  for (int waited_ms = 0; waited_ms < kConsoleMs; ++waited_ms) {
    int unsent = 0;
    if (ioctl(STDERR_FILENO, TIOCOUTQ, &unsent) != 0 || unsent == 0) return;
    nanosleep(&kMillisecond, nullptr);
  }
}

[[noreturn]] void sleep_forever() {
  for (;;) pause();
}

[[noreturn]] void end_machine(End how) {
  if (how == End::panic) {
    const int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "c", 1) != 1) print_failure("cannot write to", "/proc/sysrq-trigger", errno);
    sleep_forever();
  }
  dismiss_processes();
  remount_root_read_only();
  flush_console();
  switch (how) {
    case End::power_off:
      // A kernel without ACPI does not know how; Mayfly's register works with any. Elsewhere the write does nothing.
      write_port(kSleepControlPort, kSleepControlSoftOff);
      reboot(RB_POWER_OFF);
      break;
    case End::reboot:
      reboot(RB_AUTOBOOT);
      break;
    default:
      reboot(static_cast<int>(RB_HALT_SYSTEM));
      break;
  }
  sleep_forever();
}

// ---------------------------------------------------------------------------------------------------------------
// The command

constexpr std::array kSignals{SIGCHLD, SIGUSR1, SIGUSR2, SIGTERM, SIGINT};

sigset_t handled_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kSignals) sigaddset(&set, signal);
  return set;
}

std::optional<End> end_asked_by(int signal) {
  switch (signal) {
    case SIGUSR1:
      return End::halt;
    case SIGUSR2:
      return End::power_off;
    case SIGTERM:
      return End::reboot;
    case SIGINT:
      return End::reboot;
    default:
      return std::nullopt;
  }
}

/// The console is the terminal of a session of ours, which does not end with the command: when a session's leader ends,
/// its terminal is hung up, and what the serial driver has not sent yet is thrown away.
void control_console() {
  setsid();
  ioctl(STDIN_FILENO, TIOCSCTTY, 1);  // without a controlling terminal a shell has no job control, and ^C no target
  signal(SIGTTOU, SIG_IGN);           // we write to it whoever has the foreground
}

[[noreturn]] void become_command(const char* command, const sigset_t& signals) {
  setpgid(0, 0);
  tcsetpgrp(STDIN_FILENO, getpid());
  signal(SIGTTOU, SIG_DFL);
  sigprocmask(SIG_UNBLOCK, &signals, nullptr);
  setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
  setenv("HOME", "/root", 1);
  if (*command != '\0') {
    execl("/bin/sh", "sh", "-c", command, nullptr);
  } else {
    execl("/bin/sh", "-sh", nullptr);  // the dash makes it a login shell, which reads /etc/profile
  }
  print_failure("cannot run", "/bin/sh", errno);
  _exit(127);
}

void announce_exit(int status) {
  if (WIFSIGNALED(status)) {
    (Message{} << "command was killed by signal " << static_cast<std::uint64_t>(WTERMSIG(status))).print();
  } else {
    (Message{} << "command exited with status " << static_cast<std::uint64_t>(WEXITSTATUS(status))).print();
  }
}

/// Takes every dead child; true where the command was among them.
bool reap(pid_t command) {
  bool ended = false;
  int status = 0;
  for (pid_t child; (child = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (child != command) continue;
    announce_exit(status);
    ended = true;
  }
  return ended;
}

/// Runs the command to its end, or until a signal asks for another. Returns how the machine shall end.
End run(const char* command, End after, const sigset_t& signals) {
  control_console();
  const pid_t child = fork();
  if (child == 0) become_command(command, signals);
  if (child < 0) {
    print_failure("cannot start", "/bin/sh", errno);
    return after;
  }
  for (;;) {
    const int signal = sigwaitinfo(&signals, nullptr);
    if (signal == SIGCHLD && reap(child)) return after;
    if (const auto end = end_asked_by(signal)) return *end;
  }
}

}  // namespace

int main() {
  if (getpid() != 1) {
    (Message{} << "I am made to be process 1 of a guest; see rootfs-tools/README.md").print();
    return 2;
  }
  // Before anything can end: a signal that arrives early waits until it is asked for.
  const sigset_t signals = handled_signals();
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  reboot(RB_DISABLE_CAD);  // ctrl-alt-del becomes SIGINT to us

  mount_all();
  open_console();
  load_modules();
  write_port(kBootTimerPort, kBootTimerValue);
  announce_ready();

  static std::array<char, kCommandLineLimit> line;
  const Orders orders = read_orders(line);
  static std::array<char, kCommandLineLimit + 1> command;  // a copy, ended by a zero
  std::memcpy(command.data(), orders.run.data(), orders.run.size());
  end_machine(run(command.data(), orders.end, signals));
}
