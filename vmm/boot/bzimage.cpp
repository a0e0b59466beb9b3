#include "vmm/boot/bzimage.h"

#include "vmm/boot/layout.h"

#include <algorithm>
#include <bit>
#include <cstddef>

namespace mayfly {
namespace {

constexpr std::uint64_t kSectorSize = 512;
constexpr std::uint64_t kHeaderOffset = 0x1F1;
/// The header ends at 0x202 plus the byte at 0x201 (the reach of the jump over it), wherever the version puts its end.
constexpr std::uint64_t kHeaderEndBase = 0x202;
constexpr std::uint64_t kHeaderEndByte = 0x201;
/// Protocol 2.12 brought xloadflags; every 64-bit kernel since 3.8 has it.
constexpr std::uint16_t kOldestVersion = 0x020C;
constexpr std::uint16_t kBootFlag = 0xAA55;
constexpr unsigned kDefaultSetupSectors = 4;
constexpr std::uint64_t kEntry64Offset = 0x200;
constexpr std::uint64_t kParagraph = 16;

static_assert(sizeof(boot_params) == 4096);
static_assert(offsetof(boot_params, hdr) == kHeaderOffset);

}  // namespace

Result<BzImage> BzImage::parse(const ImageFile& file, GuestAddress ram_end, std::size_t command_line_size) {
  const auto reach = file.load<std::uint8_t>(kHeaderEndByte, "the setup header");
  if (!reach) return std::unexpected(reach.error());
  BzImage image;
  const std::uint64_t header_size =
      std::min<std::uint64_t>(sizeof(setup_header), kHeaderEndBase + *reach - kHeaderOffset);
  auto header_bytes = std::as_writable_bytes(std::span{&image.header_, 1}).first(header_size);
  if (auto read = file.read(kHeaderOffset, header_bytes, "the setup header"); !read) return propagate(read);
  if (auto checked = image.check_header(file, command_line_size); !checked) return propagate(checked);
  if (auto placed = image.place(file, ram_end); !placed) return propagate(placed);
  return image;
}

Status BzImage::check_header(const ImageFile& file, std::size_t command_line_size) const {
  if (header_.boot_flag != kBootFlag)
    return fail(ErrorKind::InvalidArgument, "{} has boot flag {:#x} instead of {:#x}: it is damaged; copy it again",
                file.name(), std::uint16_t{header_.boot_flag}, kBootFlag);
  if (header_.version < kOldestVersion)
    return fail(ErrorKind::InvalidArgument,
                "{} is a bzImage of boot protocol {}.{:02}; 2.12 or newer is needed (Linux 3.8 or newer)", file.name(),
                header_.version >> 8, header_.version & 0xFF);
  if ((header_.loadflags & LOADED_HIGH) == 0)
    return fail(ErrorKind::InvalidArgument, "{} is a zImage, to be loaded low; give a bzImage", file.name());
  if ((header_.xloadflags & XLF_KERNEL_64) == 0)
    return fail(ErrorKind::InvalidArgument,
                "{} is a 32-bit kernel (no 64-bit entry in xloadflags {:#x}); give a 64-bit "
                "bzImage",
                file.name(), std::uint16_t{header_.xloadflags});
  if (command_line_size > header_.cmdline_size)
    return fail(ErrorKind::TooLarge, "the kernel command line has {} bytes, and {} takes {}; shorten boot_args",
                command_line_size, file.name(), std::uint32_t{header_.cmdline_size});
  if (!std::has_single_bit(std::uint32_t{header_.kernel_alignment}))
    return fail(ErrorKind::InvalidArgument,
                "{} wants an alignment of {:#x}, which is no power of two: it is damaged; "
                "copy it again",
                file.name(), std::uint32_t{header_.kernel_alignment});
  return {};
}

Status BzImage::place(const ImageFile& file, GuestAddress ram_end) {
  const unsigned sectors = header_.setup_sects == 0 ? kDefaultSetupSectors : header_.setup_sects;
  file_offset_ = (sectors + 1) * kSectorSize;
  const std::uint64_t declared = header_.syssize * kParagraph;
  // syssize is rounded up to a paragraph; a file may lack that padding, and may go on behind it with a signature.
  if (declared <= kEntry64Offset + kParagraph || !file.holds(file_offset_, declared - (kParagraph - 1)))
    return fail(ErrorKind::InvalidArgument,
                "{} is truncated: it has {} bytes, and its protected-mode part should be at [{:#x}, +{:#x}); copy or "
                "build it again",
                file.name(), file.size(), file_offset_, declared);
  const std::uint64_t start = layout::kKernelFloor.value;
  loaded_ = {start, start + std::min(file.size() - file_offset_, declared)};

  // boot.rst, "init_size": where the kernel runs, and how much it needs there.
  const std::uint64_t wanted = header_.pref_address;
  const std::uint64_t alignment = header_.kernel_alignment;
  const auto runtime_start = header_.relocatable_kernel == 0 ? wanted : align_up(std::max(start, wanted), alignment);
  const auto runtime =
      runtime_start ? AddressRange::of_size(*runtime_start, header_.init_size) : std::optional<AddressRange>{};
  if (!runtime || runtime->start < start || runtime->end > layout::kIdentityMapped || header_.init_size == 0)
    return fail(ErrorKind::InvalidArgument,
                "{} wants to run at {:#x} with {:#x} bytes; that must lie between 1 MiB and 1 GiB: it is damaged; copy "
                "it again",
                file.name(), wanted, std::uint32_t{header_.init_size});
  runtime_ = *runtime;
  if (end() > ram_end.value)
    return fail(
        ErrorKind::TooLarge,
        "{} needs guest memory up to {:#x} to unpack itself, and RAM ends at {:#x}; raise mem_size_mib to {} or "
        "more",
        file.name(), end(), ram_end.value, (end() + kMiB - 1) / kMiB);
  return {};
}

GuestAddress BzImage::entry() const noexcept { return GuestAddress{loaded_.start + kEntry64Offset}; }

std::uint64_t BzImage::end() const noexcept { return std::max(loaded_.end, runtime_.end); }

Status BzImage::load(const ImageFile& file, GuestMemory& memory) const {
  auto placed = memory.place_file(file.fd(), file_offset_, GuestAddress{loaded_.start}, loaded_.size());
  if (!placed) return propagate(placed, file.name());
  return {};
}

}  // namespace mayfly
