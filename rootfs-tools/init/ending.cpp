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

// How long processes may take to leave after SIGTERM, before SIGKILL; and how long the console may take to send its
// rest.
constexpr int kFarewellMs = 500;
constexpr int kConsoleMs = 2000;
constexpr timespec kMillisecond{.tv_sec = 0, .tv_nsec = 1'000'000};

int below_root = -1;

void remount_root_read_only() {
  // A file system that is left mounted writable is replayed, and maybe refused, at the next start.
  sync();
  mount(nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
  if (below_root < 0) return;
  std::array<char, 32> path{"/proc/self/fd/"};
  std::to_chars(path.data() + strlen(path.data()), path.data() + path.size() - 1, below_root);
  mount(nullptr, path.data(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
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
