#include "rootfs-tools/init/ending.h"

#include "rootfs-tools/init/message.h"
#include "rootfs-tools/init/setup.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <ctime>

namespace mayfly::guest_init {
namespace {

// Mayfly's ACPI sleep control register. SLP_TYP is bits 2-4 and SLP_EN bit 5 (ACPI 6.4, 4.8.3.7); type 5 is soft off.
constexpr std::uint16_t kSleepControlPort = 0x600;
constexpr std::uint8_t kSleepControlSoftOff = (5 << 2) | (1 << 5);

// How long processes may take to leave after SIGTERM, before SIGKILL; how long then, with memory to give back; and how long
// the console may take to send its rest.
constexpr int kFarewellMs = 500;
constexpr int kKilledMs = 1000;
constexpr int kConsoleMs = 2000;
constexpr timespec kMillisecond{.tv_sec = 0, .tv_nsec = 1'000'000};

int below_root = -1;

void remount_read_only(const char* path) {
  if (mount(nullptr, path, nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0)
    print_failure("cannot make read-only", path, errno);
}

void remount_root_read_only() {
  // A file system that is left mounted writable is replayed, and maybe refused, at the next start.
  sync();
  remount_read_only("/");
  if (below_root < 0) return;
  std::array<char, 32> path{"/proc/self/fd/"};
  std::to_chars(path.data() + strlen(path.data()), path.data() + path.size() - 1, below_root);
  remount_read_only(path.data());
}

/// Every other process comes from init, and is its child once its own parent has ended; the kernel's threads do not. False:
/// some have not ended in that time.
bool are_all_gone_within(int milliseconds) {
  for (int waited_ms = 0; waited_ms < milliseconds; ++waited_ms) {
    pid_t ended = 0;
    while ((ended = waitpid(-1, nullptr, WNOHANG)) > 0) {
    }
    if (ended < 0) return true;  // ECHILD
    nanosleep(&kMillisecond, nullptr);
  }
  return false;
}

/// Asks every process to leave, then makes it: one that still has a file open keeps its file system writable.
void dismiss_processes() {
  kill(-1, SIGTERM);
  if (are_all_gone_within(kFarewellMs)) return;
  kill(-1, SIGKILL);
  are_all_gone_within(kKilledMs);
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

}  // namespace

void also_remount_at_the_end(int root) { below_root = root; }

void end_machine(End how) {
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

}  // namespace mayfly::guest_init
