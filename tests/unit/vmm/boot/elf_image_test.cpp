#include "vmm/boot/elf_image.h"

#include "tests/unit/vmm/boot/boot_images.h"

namespace mayfly {
namespace {

constexpr GuestAddress kElfRamEnd{64 * kMiB};
constexpr std::uint64_t kElfBase = 0x100'0000;

ElfBuilder good_kernel() { return ElfBuilder{}.load(kElfBase, pattern(0x2345), 0x6000).entry(kElfBase + 0x10); }

Result<ElfImage> parse_elf(const Bytes& bytes, GuestAddress ram_end = kElfRamEnd) {
  const MemoryFile file{bytes};
  return ElfImage::parse(file.image(), ram_end);
}

TEST(ElfImage, LoadsSegmentsAtTheirPhysicalAddressesAndLeavesTheRestZero) {
  const MemoryFile file{good_kernel().load(kElfBase + 0x6123, pattern(0x1500), 0x1500).build()};
  auto memory = GuestMemory::create({.size_mib = 64});
  ASSERT_TRUE(memory);
  const auto image = ElfImage::parse(file.image(), memory->low_end());
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_EQ(image->entry(), GuestAddress{kElfBase + 0x10});
  EXPECT_FALSE(image->pvh_entry());
  EXPECT_EQ(image->end(), kElfBase + 0x6123 + 0x1500);
  ASSERT_TRUE(image->load(file.image(), *memory));

  const auto first = *memory->bytes(GuestAddress{kElfBase}, 0x6000);
  EXPECT_TRUE(std::ranges::equal(first.first(0x2345), pattern(0x2345)));
  EXPECT_TRUE(std::ranges::all_of(first.subspan(0x2345), [](std::byte byte) { return byte == std::byte{0}; }));
  EXPECT_TRUE(std::ranges::equal(*memory->bytes(GuestAddress{kElfBase + 0x6123}, 0x1500), pattern(0x1500)));
}

TEST(ElfImage, BssThatSharesAPageWithFileDataIsZeroThoughTheFileGoesOn) {
  // The file's page holds the second segment's bytes right behind the first one's.
  ElfBuilder builder;
  builder.load(kElfBase, pattern(0x3000), 0x3000).entry(kElfBase);
  builder.segments[0].p_filesz = 0x1800;
  const MemoryFile file{builder.build()};
  auto memory = GuestMemory::create({.size_mib = 64});
  const auto image = ElfImage::parse(file.image(), memory->low_end());
  ASSERT_TRUE(image) << image.error().message;
  ASSERT_TRUE(image->load(file.image(), *memory));
  const auto segment = *memory->bytes(GuestAddress{kElfBase}, 0x3000);
  EXPECT_TRUE(std::ranges::equal(segment.first(0x1800), pattern(0x1800)));
  EXPECT_TRUE(std::ranges::all_of(segment.subspan(0x1800), [](std::byte byte) { return byte == std::byte{0}; }));
}

TEST(ElfImage, APvhNoteGivesTheEntryWhateverItsWidth) {
  for (const std::size_t width : {4U, 8U}) {
    const auto image = parse_elf(good_kernel().notes(pvh_note(kElfBase + 0x20, width)).build());
    ASSERT_TRUE(image) << image.error().message;
    EXPECT_EQ(image->pvh_entry(), GuestAddress{kElfBase + 0x20});
  }
}

TEST(ElfImage, TheNoteIsFoundBehindOthersAndInAnotherSegment) {
  Bytes notes = elf_note({"GNU\0", 4}, 3, pattern(20));
  for (const Bytes& more : {elf_note({"Xenon", 5}, 18, pattern(8)), elf_note({"Xen\0", 4}, 7, pattern(3)),
                            elf_note("", 18, {}), pvh_note(kElfBase)})
    notes.insert(notes.end(), more.begin(), more.end());
  const auto image = parse_elf(good_kernel().notes(elf_note({"GNU\0", 4}, 1, {})).notes(notes).build());
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_EQ(image->pvh_entry(), GuestAddress{kElfBase});
}

TEST(ElfImage, NotesPaddedToEightBytesAreRead) {
  Bytes notes = elf_note({"GNU\0", 4}, 5, pattern(12), 8);
  Bytes descriptor;
  append_value(descriptor, std::uint64_t{kElfBase + 8});
  const Bytes pvh = elf_note({"Xen\0", 4}, 18, descriptor, 8);
  notes.insert(notes.end(), pvh.begin(), pvh.end());
  ElfBuilder builder = good_kernel().notes(notes);
  builder.segments.back().p_align = 8;
  const auto image = parse_elf(builder.build());
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_EQ(image->pvh_entry(), GuestAddress{kElfBase + 8});
}

TEST(ElfImage, NotesThatLieAreRefused) {
  expect_error(parse_elf(good_kernel().notes(pvh_note(kElfBase, 7)).build()), ErrorKind::InvalidArgument, {"7 bytes"});
  expect_error(parse_elf(good_kernel().notes(pvh_note(0x1'0000'0000)).build()), ErrorKind::InvalidArgument, {"4 GiB"});
  expect_error(parse_elf(good_kernel().notes(pvh_note(0x10'0000)).build()), ErrorKind::InvalidArgument,
               {"in no segment"});
  for (const std::uint32_t size : {0x1000U, 0xFFFF'FFFFU, 0xFFFF'FFF0U}) {
    Bytes long_name = pvh_note(kElfBase);
    std::memcpy(long_name.data(), &size, sizeof(size));
    expect_error(parse_elf(good_kernel().notes(long_name).build()), ErrorKind::InvalidArgument, {"leaves the segment"});
    Bytes long_descriptor = pvh_note(kElfBase);
    std::memcpy(long_descriptor.data() + 4, &size, sizeof(size));
    expect_error(parse_elf(good_kernel().notes(long_descriptor).build()), ErrorKind::InvalidArgument,
                 {"leaves the segment"});
  }
  expect_error(parse_elf(good_kernel().notes(Bytes(70'000)).build()), ErrorKind::InvalidArgument, {"70000", "65536"});
  ElfBuilder outside = good_kernel().notes(pvh_note(kElfBase));
  outside.segments.back().p_offset = ~0ULL - 8;
  expect_error(parse_elf(outside.build()), ErrorKind::InvalidArgument, {"truncated", "PT_NOTE"});
}

TEST(ElfImage, AFileCutAnywhereBeforeItsEndIsCalledTruncated) {
  const Bytes whole = good_kernel().build();
  for (std::size_t size = 1; size < whole.size(); size += size < 0x80 ? 1 : 0x201) {
    if (size < 4) continue;
    const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    expect_error(parse_elf(cut), ErrorKind::InvalidArgument, {"/images/test", "truncated"});
  }
}

TEST(ElfImage, FilesOfOtherMachinesAreNamedAsSuch) {
  ElfBuilder narrow = good_kernel();
  narrow.header.e_ident[EI_CLASS] = ELFCLASS32;
  expect_error(parse_elf(narrow.build()), ErrorKind::InvalidArgument, {"32-bit", "64-bit x86-64 vmlinux"});
  ElfBuilder big_endian = good_kernel();
  big_endian.header.e_ident[EI_DATA] = ELFDATA2MSB;
  expect_error(parse_elf(big_endian.build()), ErrorKind::InvalidArgument, {"big-endian"});
  ElfBuilder arm = good_kernel();
  arm.header.e_machine = EM_AARCH64;
  expect_error(parse_elf(arm.build()), ErrorKind::InvalidArgument, {"machine 183", "x86-64"});
  ElfBuilder object = good_kernel();
  object.header.e_type = ET_REL;
  expect_error(parse_elf(object.build()), ErrorKind::InvalidArgument, {"type 1", "executable"});
}

TEST(ElfImage, AbsurdProgramHeaderTablesAreRefused) {
  expect_error(parse_elf(ElfBuilder{}.build()), ErrorKind::InvalidArgument, {"no program headers"});
  ElfBuilder many = good_kernel();
  many.header.e_phnum = 0xFFFF;
  expect_error(parse_elf(many.build()), ErrorKind::InvalidArgument, {"65535 program headers", "128"});
  ElfBuilder narrow = good_kernel();
  narrow.header.e_phentsize = 32;
  expect_error(parse_elf(narrow.build()), ErrorKind::InvalidArgument, {"32 bytes"});
  for (const std::uint64_t offset : {0x10'0000ULL, ~0ULL, ~0ULL - 40}) {
    ElfBuilder outside = good_kernel();
    outside.header.e_phoff = offset;
    expect_error(parse_elf(outside.build()), ErrorKind::InvalidArgument, {"truncated", "program header table"});
  }
  ElfBuilder nothing = good_kernel();
  nothing.segments[0].p_type = PT_NULL;
  expect_error(parse_elf(nothing.build()), ErrorKind::InvalidArgument, {"nothing to load"});
}

TEST(ElfImage, SegmentsThatDoNotAddUpAreRefused) {
  ElfBuilder more_file = good_kernel();
  more_file.segments[0].p_memsz = more_file.segments[0].p_filesz - 1;
  expect_error(parse_elf(more_file.build()), ErrorKind::InvalidArgument, {"segment 0", "0x2345", "0x2344"});

  ElfBuilder outside = good_kernel();
  outside.segments[0].p_offset = ~0ULL - 0x100;
  expect_error(parse_elf(outside.build()), ErrorKind::InvalidArgument, {"truncated", "segment 0"});

  ElfBuilder wrapping = good_kernel();
  wrapping.segments[0].p_paddr = ~0ULL - 0x100;
  expect_error(parse_elf(wrapping.build()), ErrorKind::InvalidArgument, {"wraps"});

  ElfBuilder overlapping = good_kernel().load(kElfBase + 0x5FFF, pattern(1), 1);
  expect_error(parse_elf(overlapping.build()), ErrorKind::InvalidArgument, {"overlap", "0x1006000", "0x1005fff"});
  EXPECT_TRUE(parse_elf(good_kernel().load(kElfBase + 0x6000, pattern(1), 1).build()));
}

TEST(ElfImage, SegmentsMustLieBetweenTheFirstMibAndTheEndOfRam) {
  const auto at = [](std::uint64_t address, std::uint64_t size) {
    return ElfBuilder{}.load(address, pattern(16), size).entry(address).build();
  };
  expect_error(parse_elf(at(0, 16)), ErrorKind::InvalidArgument, {"first MiB", "0x100000"});
  expect_error(parse_elf(at(0xF'FFFF, 16)), ErrorKind::InvalidArgument, {"first MiB"});
  EXPECT_TRUE(parse_elf(at(0x10'0000, 16)));
  EXPECT_TRUE(parse_elf(at(0x10'0000, 63 * kMiB)));
  expect_error(parse_elf(at(0x10'0000, 63 * kMiB + 1)), ErrorKind::TooLarge, {"0x4000001", "mem_size_mib to 65"});
  expect_error(parse_elf(at(0x1'0000'0000, 16)), ErrorKind::InvalidArgument, {"link it lower"});
  expect_error(parse_elf(at(0x10'0000, 16), GuestAddress{kMiB}), ErrorKind::TooLarge, {"mem_size_mib to 2"});
}

TEST(ElfImage, TheEntryMustBeInASegmentAndMapped) {
  expect_error(parse_elf(good_kernel().entry(kElfBase + 0x6000).build()), ErrorKind::InvalidArgument,
               {"0x1006000", "in no segment"});
  expect_error(parse_elf(good_kernel().entry(0xFFFF'FFFF'8100'0000).build()), ErrorKind::InvalidArgument,
               {"physical address"});
  const Bytes high = ElfBuilder{}.load(0x4000'0000, pattern(16), 16).entry(0x4000'0000).build();
  expect_error(parse_elf(high, GuestAddress{2048 * kMiB}), ErrorKind::InvalidArgument, {"first GiB"});
  // With a PVH note, e_entry is not used.
  EXPECT_TRUE(parse_elf(good_kernel().notes(pvh_note(kElfBase)).entry(0).build()));
}

}  // namespace
}  // namespace mayfly
