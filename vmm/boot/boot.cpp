#include "vmm/boot/boot.h"

#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/elf_image.h"
#include "vmm/boot/identity_page.h"
#include "vmm/boot/image_kind.h"
#include "vmm/boot/layout.h"
#include "vmm/boot/mp_table.h"
#include "vmm/boot/pvh_start_info.h"
#include "vmm/boot/zero_page.h"
#include "vmm/kvm/message_port.h"

#include <algorithm>
#include <array>
#include <variant>

namespace mayfly {
namespace {

using KernelImage = std::variant<ElfImage, BzImage>;

Result<KernelImage> parse_kernel(const ImageFile& file, GuestAddress ram_end, std::size_t command_line_size) {
  std::array<std::byte, kImageKindBytes> buffer{};
  const auto first = std::span{buffer}.first(std::min<std::uint64_t>(buffer.size(), file.size()));
  if (auto read = file.read(0, first, "its first bytes"); !read) return propagate(read);
  switch (image_kind(first)) {
    case ImageKind::Elf: {
      auto image = ElfImage::parse(file, ram_end);
      if (!image) return propagate(image);
      return std::move(*image);
    }
    case ImageKind::BzImage: {
      auto image = BzImage::parse(file, ram_end, command_line_size);
      if (!image) return propagate(image);
      return *image;
    }
    case ImageKind::Other:
      break;
  }
  return fail(ErrorKind::InvalidArgument, "{} is {}; give an ELF vmlinux or a bzImage for x86-64", file.name(),
              describe_unknown_image(first));
}

/// The range of an initrd in `free`, which lies between the end of the kernel and the highest address that RAM and the
/// kernel allow: page-aligned, as high as it fits, so that the kernel can grow below it.
Result<AddressRange> place_initrd(const ImageFile& file, const AddressRange& free) {
  const std::uint64_t room = free.end > free.start ? free.size() : 0;
  if (file.size() <= room) {
    const std::uint64_t start = align_down(free.end - file.size(), kGuestPageSize);
    if (start >= free.start) return AddressRange{start, start + file.size()};
  }
  return fail(ErrorKind::TooLarge,
              "{} has {} bytes, and guest memory has {} bytes for it between the end of the kernel at {:#x} and {:#x}; "
              "raise mem_size_mib or give a smaller initrd",
              file.name(), file.size(), room, free.start, free.end);
}

/// The initrd's file and place.
struct Initrd {
  ImageFile file;
  AddressRange place;
};

Result<std::optional<Initrd>> plan_initrd(const BootOptions& options, const KernelImage& kernel, GuestAddress ram_end) {
  if (!options.initrd_fd) return std::nullopt;
  auto file = ImageFile::of(*options.initrd_fd, BootFileRole::Initrd, options.initrd_path);
  if (!file) return propagate(file);
  AddressRange free{.start = 0, .end = ram_end.value};
  if (const auto* image = std::get_if<BzImage>(&kernel)) {
    free.start = image->end();
    free.end = std::min(free.end, std::uint64_t{image->header().initrd_addr_max} + 1);
  } else {
    free.start = std::get<ElfImage>(kernel).end();
  }
  auto place = place_initrd(*file, free);
  if (!place) return propagate(place);
  return Initrd{.file = std::move(*file), .place = *place};
}

Status check_windows(const BootOptions& options) {
  std::vector<VirtioMmioWindow> sorted = options.windows;
  std::ranges::sort(sorted, {}, &VirtioMmioWindow::base);
  std::array<bool, kIoapicPins> taken{};
  for (const unsigned gsi : {0U, layout::kKeyboardGsi, layout::kTimerGsi, layout::kSerialGsi, layout::kEventGsi})
    taken[gsi] = true;
  std::uint64_t floor = kMmioHoleStart;
  for (const VirtioMmioWindow& window : sorted) {
    if (window.base.value < floor || window.base.value >= layout::kIoapicBase || window.size == 0 ||
        window.size > layout::kIoapicBase - window.base.value)
      return fail(ErrorKind::InvalidArgument,
                  "the virtio window at {:#x} with {:#x} bytes overlaps another, or leaves [{:#x}, {:#x})",
                  window.base.value, window.size, kMmioHoleStart, layout::kIoapicBase);
    if (window.gsi >= taken.size() || taken[window.gsi])
      return fail(ErrorKind::InvalidArgument,
                  "the virtio window at {:#x} has interrupt line {}, which is taken or not below {}", window.base.value,
                  window.gsi, taken.size());
    taken[window.gsi] = true;
    floor = window.base.value + window.size;
  }
  return {};
}

void write_machine_tables(const GuestMemory& memory, const BootOptions& options) {
  write_mp_table(memory, options.vcpu_count);
  write_acpi_tables(memory, options.vcpu_count, options.windows);
}

BootEntry write_parameters(const GuestMemory& memory, const KernelImage& kernel,
                           const std::optional<AddressRange>& initrd) {
  if (const auto* image = std::get_if<BzImage>(&kernel)) {
    write_zero_page(memory, {.header = image->header(), .initrd = initrd});
    return {EntryProtocol::Linux64, image->entry(), layout::kZeroPage, layout::kStackTop};
  }
  const auto& image = std::get<ElfImage>(kernel);
  if (image.pvh_entry()) {
    write_pvh_start_info(memory, initrd);
    return {EntryProtocol::Pvh, *image.pvh_entry(), layout::kPvhStartInfo, layout::kStackTop};
  }
  write_zero_page(memory, {.header = elf_setup_header(), .initrd = initrd});
  return {EntryProtocol::Linux64, image.entry(), layout::kZeroPage, layout::kStackTop};
}

}  // namespace

Result<BootEntry> prepare_boot(GuestMemory& memory, const BootOptions& options) {
  if (options.vcpu_count == 0 || options.vcpu_count > kMaximumVcpus)
    return fail(ErrorKind::InvalidArgument, "vcpu_count is {}; it must be from 1 to {}", options.vcpu_count,
                kMaximumVcpus);
  if (auto checked = check_command_line(options.command_line); !checked) return propagate(checked);
  if (auto checked = check_windows(options); !checked) return propagate(checked);
  auto file = ImageFile::of(options.kernel_fd, BootFileRole::Kernel, options.kernel_path);
  if (!file) return propagate(file);
  auto kernel = parse_kernel(*file, memory.low_end(), options.command_line.size());
  if (!kernel) return propagate(kernel);
  auto initrd = plan_initrd(options, *kernel, memory.low_end());
  if (!initrd) return propagate(initrd);

  auto loaded = std::visit([&](const auto& image) { return image.load(*file, memory); }, *kernel);
  if (!loaded) return propagate(loaded);
  std::optional<AddressRange> initrd_place;
  if (const auto& planned = *initrd) {
    initrd_place = planned->place;
    auto placed = memory.place_file(planned->file.fd(), 0, GuestAddress{planned->place.start}, planned->file.size());
    if (!placed) return propagate(placed, planned->file.name());
  }
  if (auto written = write_command_line(memory, options.command_line); !written) return propagate(written);
  if (auto written = write_identity(memory); !written) return propagate(written);
  write_machine_tables(memory, options);
  const BootEntry entry = write_parameters(memory, *kernel, initrd_place);
  write_entry_tables(memory, entry.protocol);
  return entry;
}

}  // namespace mayfly
