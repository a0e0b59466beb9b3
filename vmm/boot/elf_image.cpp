#include "vmm/boot/elf_image.h"

#include "vmm/boot/layout.h"
#include "vmm/boot/pvh_note.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <bit>

namespace mayfly {
namespace {

/// Linux has five. More than this is not a kernel, and would make the checks below slow.
constexpr unsigned kMaximumProgramHeaders = 128;
/// Notes of Linux take about 500 bytes.
constexpr std::uint64_t kMaximumNoteBytes = 64ULL * 1024;

static_assert(std::endian::native == std::endian::little);

Result<Elf64_Ehdr> read_header(const ImageFile& file) {
  // The identification tells 32-bit files, whose header is shorter, from truncated ones.
  auto identification = file.load<std::array<unsigned char, EI_NIDENT>>(0, "the ELF identification");
  if (!identification) return propagate(identification);
  if ((*identification)[EI_CLASS] != ELFCLASS64)
    return fail(ErrorKind::InvalidArgument, "{} is a 32-bit ELF file (class {}); give a 64-bit x86-64 vmlinux",
                file.name(), (*identification)[EI_CLASS]);
  if ((*identification)[EI_DATA] != ELFDATA2LSB)
    return fail(ErrorKind::InvalidArgument, "{} is a big-endian ELF file (data encoding {}); give an x86-64 vmlinux",
                file.name(), (*identification)[EI_DATA]);
  auto header = file.load<Elf64_Ehdr>(0, "the ELF header");
  if (!header) return propagate(header);
  if (header->e_machine != EM_X86_64)
    return fail(ErrorKind::InvalidArgument, "{} is an ELF file for machine {}; give one for x86-64 (machine {})",
                file.name(), header->e_machine, EM_X86_64);
  if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
    return fail(ErrorKind::InvalidArgument,
                "{} is an ELF file of type {} (an object or a core file); give an executable: a linked vmlinux",
                file.name(), header->e_type);
  return header;
}

Result<std::vector<Elf64_Phdr>> read_program_headers(const ImageFile& file, const Elf64_Ehdr& header) {
  if (header.e_phnum == 0)
    return fail(ErrorKind::InvalidArgument, "{} has no program headers; give a linked vmlinux, not an object file",
                file.name());
  if (header.e_phentsize != sizeof(Elf64_Phdr))
    return fail(ErrorKind::InvalidArgument, "{} has program headers of {} bytes instead of {}; build it again",
                file.name(), header.e_phentsize, sizeof(Elf64_Phdr));
  if (header.e_phnum > kMaximumProgramHeaders)
    return fail(ErrorKind::InvalidArgument, "{} has {} program headers; a kernel has at most {}", file.name(),
                header.e_phnum, kMaximumProgramHeaders);
  std::vector<Elf64_Phdr> headers(header.e_phnum);
  if (auto read = file.read(header.e_phoff, std::as_writable_bytes(std::span{headers}), "the program header table");
      !read)
    return propagate(read);
  return headers;
}

/// One PT_LOAD, checked by itself.
Result<ElfImage::Segment> check_segment(const ImageFile& file, std::size_t number, const Elf64_Phdr& header) {
  if (header.p_filesz > header.p_memsz)
    return fail(ErrorKind::InvalidArgument,
                "{}: segment {} has more bytes in the file ({:#x}) than in memory ({:#x}); build it again", file.name(),
                number, header.p_filesz, header.p_memsz);
  if (!file.holds(header.p_offset, header.p_filesz))
    return fail(ErrorKind::InvalidArgument,
                "{} is truncated: it has {} bytes, and segment {} should be at [{:#x}, +{:#x}); copy or build it again",
                file.name(), file.size(), number, header.p_offset, header.p_filesz);
  const auto memory = AddressRange::of_size(header.p_paddr, header.p_memsz);
  if (!memory)
    return fail(ErrorKind::InvalidArgument,
                "{}: segment {} wraps around the address space (physical address {:#x}, {:#x} bytes); build it again",
                file.name(), number, header.p_paddr, header.p_memsz);
  if (memory->start < layout::kKernelFloor.value)
    return fail(ErrorKind::InvalidArgument,
                "{}: segment {} starts at {:#x}; the first MiB is for boot structures, link it at {:#x} or above",
                file.name(), number, memory->start, layout::kKernelFloor.value);
  if (memory->end > kMmioHoleStart)
    return fail(ErrorKind::InvalidArgument,
                "{}: segment {} ends at {:#x}; kernels are loaded below {:#x}, link it lower", file.name(), number,
                memory->end, kMmioHoleStart);
  return ElfImage::Segment{.file_offset = header.p_offset, .file_size = header.p_filesz, .memory = *memory};
}

Result<std::optional<std::uint32_t>> read_pvh_note(const ImageFile& file, const std::vector<Elf64_Phdr>& headers) {
  for (const Elf64_Phdr& header : headers) {
    if (header.p_type != PT_NOTE) continue;
    if (header.p_filesz > kMaximumNoteBytes)
      return fail(ErrorKind::InvalidArgument, "{} has a PT_NOTE segment of {} bytes; a kernel's has at most {}",
                  file.name(), header.p_filesz, kMaximumNoteBytes);
    std::vector<std::byte> notes(header.p_filesz);
    if (auto read = file.read(header.p_offset, notes, "a PT_NOTE segment"); !read) return propagate(read);
    auto entry = find_pvh_entry(notes, header.p_align);
    if (!entry) return propagate(entry, file.name());
    if (*entry) return entry;
  }
  return std::nullopt;
}

}  // namespace

Result<ElfImage> ElfImage::parse(const ImageFile& file, GuestAddress ram_end) {
  const auto header = read_header(file);
  if (!header) return std::unexpected(header.error());
  const auto program_headers = read_program_headers(file, *header);
  if (!program_headers) return std::unexpected(program_headers.error());

  ElfImage image;
  for (std::size_t number = 0; number < program_headers->size(); ++number) {
    const Elf64_Phdr& program_header = (*program_headers)[number];
    if (program_header.p_type != PT_LOAD || program_header.p_memsz == 0) continue;
    auto segment = check_segment(file, number, program_header);
    if (!segment) return propagate(segment);
    image.segments_.push_back(*segment);
  }
  if (auto apart = image.check_apart(file); !apart) return propagate(apart);
  if (image.end() > ram_end.value)
    return fail(ErrorKind::TooLarge,
                "{} needs guest memory up to {:#x}, and RAM ends at {:#x}; raise mem_size_mib to {} or more",
                file.name(), image.end(), ram_end.value, (image.end() + kMiB - 1) / kMiB);
  auto pvh_entry = read_pvh_note(file, *program_headers);
  if (!pvh_entry) return propagate(pvh_entry);
  if (auto checked = image.check_entries(file, header->e_entry, *pvh_entry); !checked) return propagate(checked);
  return image;
}

/// Some memory is loaded, and no byte of it twice.
Status ElfImage::check_apart(const ImageFile& file) const {
  if (segments_.empty())
    return fail(ErrorKind::InvalidArgument, "{} has nothing to load (no PT_LOAD segment); give a linked vmlinux",
                file.name());
  auto sorted = segments_;
  std::ranges::sort(sorted, {}, [](const Segment& segment) { return segment.memory.start; });
  const auto clash = std::ranges::adjacent_find(
      sorted, [](const Segment& left, const Segment& right) { return left.memory.overlaps(right.memory); });
  if (clash == sorted.end()) return {};
  return fail(ErrorKind::InvalidArgument,
              "{}: segments overlap in memory ([{:#x}, {:#x}) and [{:#x}, {:#x})); build it again", file.name(),
              clash->memory.start, clash->memory.end, std::next(clash)->memory.start, std::next(clash)->memory.end);
}

Status ElfImage::check_entries(const ImageFile& file, std::uint64_t entry, std::optional<std::uint32_t> pvh_entry) {
  if (pvh_entry) {
    if (!holds(*pvh_entry))
      return fail(ErrorKind::InvalidArgument, "{}: its PVH entry point {:#x} is in no segment; build it again",
                  file.name(), *pvh_entry);
    pvh_entry_ = GuestAddress{*pvh_entry};
  } else {
    if (!holds(entry))
      return fail(ErrorKind::InvalidArgument,
                  "{}: its entry point {:#x} is in no segment; it must be a physical address, as in a Linux vmlinux",
                  file.name(), entry);
    if (entry >= layout::kIdentityMapped)
      return fail(ErrorKind::InvalidArgument,
                  "{}: its entry point {:#x} is beyond the first GiB, which alone is mapped at entry; link it lower",
                  file.name(), entry);
  }
  entry_ = GuestAddress{entry};
  return {};
}

bool ElfImage::holds(std::uint64_t address) const noexcept {
  return std::ranges::any_of(segments_, [=](const Segment& segment) { return segment.memory.contains(address); });
}

std::uint64_t ElfImage::end() const noexcept {
  std::uint64_t end = 0;
  for (const Segment& segment : segments_) end = std::max(end, segment.memory.end);
  return end;
}

Status ElfImage::load(const ImageFile& file, GuestMemory& memory) const {
  for (const Segment& segment : segments_) {
    auto placed =
        memory.place_file(file.fd(), segment.file_offset, GuestAddress{segment.memory.start}, segment.file_size);
    if (!placed) return propagate(placed, file.name());
  }
  return {};
}

}  // namespace mayfly
