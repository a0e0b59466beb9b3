#include "vmm/boot/dsdt.h"

#include "vmm/boot/aml.h"
#include "vmm/boot/layout.h"

namespace mayfly {
namespace {

/// _STA (ACPI 6.5, 6.3.7): present, enabled, working, and not to be shown to a user.
constexpr std::uint64_t kPresentHidden = 0xB;
/// The notification value that the specifications of the generation id and of the VMClock ask for.
constexpr std::uint8_t kIdentityChanged = 0x80;

/// The id is not Mayfly's own: Linux's virtio_mmio driver knows this one (ARM's, and QEMU's microvm machine's).
TableBytes virtio_window(std::size_t number, const VirtioMmioWindow& window) {
  return aml::device(
      fmt::format("V{:03}", number),
      {aml::name("_HID", aml::string("LNRO0005")), aml::name("_UID", aml::integer(number)),
       aml::name("_CCA", aml::integer(1)),
       aml::name("_CRS", aml::resources({aml::memory_window(static_cast<std::uint32_t>(window.base.value),
                                                            static_cast<std::uint32_t>(window.size)),
                                         aml::interrupt(window.gsi)}))});
}

TableBytes serial_port() {
  return aml::device("COM1",
                     {aml::name("_HID", aml::eisa_id("PNP0501")), aml::name("_UID", aml::integer(0)),
                      aml::name("_CRS", aml::resources({aml::io_ports(layout::kSerialPort, layout::kSerialPorts),
                                                        aml::interrupt(layout::kSerialGsi)}))});
}

TableBytes keyboard() {
  return aml::device("KBD0", {aml::name("_HID", aml::eisa_id("PNP0303")),
                              aml::name("_CRS", aml::resources({aml::io_ports(layout::kKeyboardDataPort, 1),
                                                                aml::io_ports(layout::kKeyboardCommandPort, 1),
                                                                aml::interrupt(layout::kKeyboardGsi)}))});
}

TableBytes panic_port() {
  return aml::device("PVPC",
                     {aml::name("_HID", aml::string("QEMU0001")), aml::name("_STA", aml::integer(kPresentHidden)),
                      aml::name("_CRS", aml::resources({aml::io_ports(layout::kPvpanicPort, 1)}))});
}

/// Microsoft, "Virtual Machine Generation ID": found by _CID or _DDN; ADDR is the number's address, low half first.
TableBytes generation_id() {
  return aml::device("VGEN",
                     {aml::name("_HID", aml::string("MFLY0001")), aml::name("_CID", aml::string("VM_Gen_Counter")),
                      aml::name("_DDN", aml::string("VM_Gen_Counter")),
                      aml::name("ADDR", aml::package({aml::integer(layout::kGenerationId.value & UINT32_MAX),
                                                      aml::integer(layout::kGenerationId.value >> 32)}))});
}

/// UAPI.13, "Discovery via ACPI".
TableBytes vm_clock() {
  return aml::device(
      "VCLK", {aml::name("_HID", aml::string("AMZNC10C")), aml::name("_CID", aml::string("VMCLOCK")),
               aml::name("_DDN", aml::string("VMCLOCK")),
               aml::name("_CRS", aml::resources({aml::memory_window(static_cast<std::uint32_t>(layout::kVmClock.value),
                                                                    static_cast<std::uint32_t>(kGuestPageSize))}))});
}

/// The generic event device (ACPI 6.5, 5.6.9): a hardware-reduced machine's way to send a notification. Its one line
/// means one thing, so the method need not look at its argument.
TableBytes event_device() {
  return aml::device(
      "GED0", {aml::name("_HID", aml::string("ACPI0013")), aml::name("_UID", aml::integer(0)),
               aml::name("_CRS", aml::resources({aml::interrupt(layout::kEventGsi)})),
               aml::method("_EVT", 1, {aml::notify("VGEN", kIdentityChanged), aml::notify("VCLK", kIdentityChanged)})});
}

}  // namespace

TableBytes dsdt_body(std::span<const VirtioMmioWindow> windows) {
  ensure(windows.size() <= kMaximumWindows, "more virtio windows than the DSDT names");
  TableBytes devices;
  for (std::size_t number = 0; number < windows.size(); ++number)
    append(devices, virtio_window(number, windows[number]));
  for (const TableBytes& device :
       {serial_port(), keyboard(), panic_port(), generation_id(), vm_clock(), event_device()})
    append(devices, device);

  const TableBytes off = aml::integer(layout::kSleepTypeOff);
  TableBytes body = aml::name("_S5_", aml::package({off, off}));
  append(body, aml::root_scope("_SB_", devices));
  return body;
}

}  // namespace mayfly
