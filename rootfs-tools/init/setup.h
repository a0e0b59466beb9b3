#pragma once

#include <cstdint>
#include <span>

namespace mayfly::guest_init {

struct MountPoint {
  const char* type;
  const char* target;
  unsigned long flags;
  const char* options;
  bool may_lack = false;  ///< A kernel without that file system is as good.
};

/// Makes each directory and mounts, where that is not so yet. Failures are printed.
void mount_all(std::span<const MountPoint> points);
/// What every guest has: proc, sys, dev, dev/pts; and of guests without an image: tmp and run.
void mount_kernel();
void mount_scratch();

/// An initramfs may come without a console node, and then the kernel has started us without standard streams: opens
/// the one of the devtmpfs, always. A machine without any console gets /dev/null.
void open_console();

/// Open files: the hard limit is that of container engines, since databases do not start with the kernel's 4096.
void raise_limits();

/// Those of /lib/modules-to-load, if it exists.
void load_modules();

/// Writes one byte to an I/O port: directly, or through /dev/port on a kernel without ioperm().
void write_port(std::uint16_t port, std::uint8_t value);

/// Stops Mayfly's boot timer, and prints the line that tests and benchmarks parse.
void announce_ready();

}  // namespace mayfly::guest_init
