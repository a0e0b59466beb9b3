// mayfly-guest-init: PID 1 of a microVM, and nothing more.
//
// In order, it
//   1. mounts /proc, /sys, /dev, /dev/pts, /tmp and /run where they are not mounted yet;
//   2. gives itself and its children /dev/console as standard input, output and error, and a limit of open files;
//   3. loads the kernel modules that /lib/modules-to-load lists (one a line: path, then parameters), if it exists;
//   4. with mayfly.image: makes the image the root (image_root.h), and sets up the network (network.h);
//   5. writes 123 to I/O port 0x3F0, Mayfly's boot timer;
//   6. prints one line, which tests and benchmarks parse:
//          mayfly-init: ready uptime_ms=<CLOCK_BOOTTIME> cpus=<online> memory_mib=<MemTotal>
//   7. runs a command, the image's program or a shell on the console, and reaps every orphan meanwhile; of an image, the
//      agent besides;
//   8. prints `mayfly-init: command exited with status N` (or `... was killed by signal N`) and ends the machine.
//
// orders.h has what the kernel's command line may say.
//
// Signals, as busybox's init has them: SIGUSR1 halt, SIGUSR2 power off, SIGTERM reboot, SIGINT (ctrl-alt-del) reboot.
//
// It is a static binary that uses of C++ what needs no run-time library: no exceptions, no allocation, no iostreams.

#include "rootfs-tools/init/ending.h"
#include "rootfs-tools/init/image_root.h"
#include "rootfs-tools/init/message.h"
#include "rootfs-tools/init/orders.h"
#include "rootfs-tools/init/programs.h"
#include "rootfs-tools/init/setup.h"

#include <sys/reboot.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace {

using namespace mayfly::guest_init;

constexpr std::size_t kCommandLineLimit = 4096;  // COMMAND_LINE_SIZE of x86 is 2048

Orders read_orders(std::span<char> buffer) {
  const auto line = read_file("/proc/cmdline", buffer);
  if (!line) {
    print_failure("cannot read", "/proc/cmdline", errno);
    return {};
  }
  return parse_orders(*line);
}

void complain(const Orders& orders) {
  if (orders.unknown_end.empty()) return;
  (Message{} << "mayfly.end=" << orders.unknown_end << " is not poweroff, reboot, halt or panic: will power off")
      .print();
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

  mount_kernel();
  mount_scratch();
  open_console();
  raise_limits();
  load_modules();
  static std::array<char, kCommandLineLimit> line;
  const Orders orders = read_orders(line);
  static Image image;
  if (!orders.image.empty() && !enter_image(orders, image)) end_machine(orders.end);
  announce_ready();
  complain(orders);

  static std::array<char, kCommandLineLimit + 1> command;  // a copy, ended by a zero
  std::memcpy(command.data(), orders.run.data(), orders.run.size());
  const Program program{.command = command.data(), .image = orders.image.empty() ? nullptr : &image};
  end_machine(run(program, orders.end, signals));
}
