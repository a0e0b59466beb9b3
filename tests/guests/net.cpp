#include "runtime/guest.h"
#include "runtime/net_interface.h"

/// A network interface that sends every frame back to its sender, whatever its size: the addresses swapped, the data
/// where it was received. The interface is the first device that is one. Command line: mac=0x060000000001 (what the
/// device must say), mtu=1500, count=N (frames to answer before the guest passes), mergeable=0 to do without.
void guest::guest_main(const BootInfo& boot) {
  const unsigned number = first_interface();
  const virtio::Device device{number};
  if (const std::uint64_t mac = boot.number("mac", 0); mac != 0)
    for (unsigned i = 0; i < 6; ++i)
      expect_equal(device.window().read8(virtio::kConfig + i), mac >> 8 * (5 - i) & 0xFF, "the MAC is as configured");
  if (const std::uint64_t mtu = boot.number("mtu", 0); mtu != 0)
    expect_equal(device.window().read16(virtio::kConfig + 10), mtu, "the MTU is as configured");
  const NetInterface::Options options{.mergeable = boot.number("mergeable", 1) != 0};
  for (int i = 0; i < 50; ++i) NetInterface{number, options};  // resets with buffers posted
  static std::optional<NetInterface> interface;
  interface.emplace(number, options);
  print("GUEST READY\n");
  const std::uint64_t wanted = boot.number("count", 0);
  for (std::uint64_t answered = 0; wanted == 0 || answered < wanted;) answered += interface->echo();
  spin_for(100'000'000);  // the last ones are on their way
  pass();
}
