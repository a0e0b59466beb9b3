#include "vmm/boot/zero_page.h"

#include "vmm/boot/layout.h"
#include "vmm/boot/memory_map.h"

namespace mayfly {
namespace {

/// boot.rst, "type_of_loader": no assigned number.
constexpr std::uint8_t kUndefinedLoader = 0xFF;
constexpr std::uint16_t kNormalVideoMode = 0xFFFF;
constexpr std::uint32_t kHeaderMagic = 0x5372'6448;  // "HdrS"
constexpr std::uint16_t kBootSignature = 0xAA55;
constexpr std::uint16_t kProtocolVersion = 0x020F;
constexpr std::uint32_t kKernelAlignment = 0x100'0000;

std::uint32_t low_half(std::uint64_t value) noexcept { return static_cast<std::uint32_t>(value); }
std::uint32_t high_half(std::uint64_t value) noexcept { return static_cast<std::uint32_t>(value >> 32); }

}  // namespace

setup_header elf_setup_header() noexcept {
  setup_header header{};
  header.boot_flag = kBootSignature;
  header.header = kHeaderMagic;
  header.version = kProtocolVersion;
  header.loadflags = LOADED_HIGH;
  header.kernel_alignment = kKernelAlignment;
  header.cmdline_size = kMaximumCommandLine;
  return header;
}

void write_zero_page(const GuestMemory& memory, const ZeroPageOptions& options) {
  boot_params page{};
  page.hdr = options.header;
  page.hdr.type_of_loader = kUndefinedLoader;
  page.hdr.vid_mode = kNormalVideoMode;
  page.hdr.setup_data = 0;
  page.hdr.cmd_line_ptr = low_half(layout::kCommandLine.value);
  page.hdr.ramdisk_image = page.hdr.ramdisk_size = 0;
  if (options.initrd) {
    page.hdr.ramdisk_image = low_half(options.initrd->start);
    page.hdr.ramdisk_size = low_half(options.initrd->size());
    page.ext_ramdisk_image = high_half(options.initrd->start);
    page.ext_ramdisk_size = high_half(options.initrd->size());
  }
  page.acpi_rsdp_addr = layout::kRsdp.value;
  for (const MemoryMapEntry& entry : memory_map(memory))
    page.e820_table[page.e820_entries++] = {
        .addr = entry.start, .size = entry.size, .type = static_cast<std::uint32_t>(entry.type)};
  ensure(memory.store(layout::kZeroPage, page), "the zero page lies outside guest memory");
}

}  // namespace mayfly
