#include "vmm/boot/boot.h"

#include "tests/unit/vmm/boot/boot_images.h"
#include "vmm/boot/layout.h"
#include "vmm/boot/pvh_start_info.h"
#include "vmm/config/configuration.h"

namespace mayfly {
namespace {

constexpr std::uint64_t kBase = 0x100'0000;

struct Entry {
  std::uint64_t start;
  std::uint64_t size;
  std::uint32_t type;
  friend bool operator==(const Entry&, const Entry&) = default;
};

/// A machine that is about to boot: memory, files and options, to be changed by the test.
struct PrepareBoot : ::testing::Test {
  PrepareBoot() {
    options.command_line = "quiet panic=1";
    options.vcpu_count = 2;
  }
  [[nodiscard]] Result<BootEntry> prepare(std::uint64_t size_mib, const Bytes& kernel) {
    memory.emplace(*GuestMemory::create({.size_mib = size_mib}));
    kernel_file.emplace(kernel);
    options.kernel_fd = kernel_file->fd();
    options.kernel_path = "/images/test";
    return prepare_boot(*memory, options);
  }
  void give_initrd(std::size_t size) {
    initrd = pattern(size);
    initrd_file.emplace(initrd);
    options.initrd_fd = initrd_file->fd();
    options.initrd_path = "/images/initrd";
  }
  template <typename T>
  [[nodiscard]] T load(std::uint64_t at) const {
    return *memory->load<T>(GuestAddress{at});
  }
  [[nodiscard]] std::vector<Entry> e820() const {
    const auto page = load<boot_params>(0x7000);
    std::vector<Entry> map;
    map.reserve(page.e820_entries);
    for (unsigned number = 0; number < page.e820_entries; ++number)
      map.push_back({page.e820_table[number].addr, page.e820_table[number].size, page.e820_table[number].type});
    return map;
  }
  [[nodiscard]] bool initrd_is_at(std::uint64_t at) const {
    return std::ranges::equal(*memory->bytes(GuestAddress{at}, initrd.size()), initrd);
  }

  std::optional<GuestMemory> memory;
  std::optional<MemoryFile> kernel_file;
  std::optional<MemoryFile> initrd_file;
  Bytes initrd;
  BootOptions options;
};

Bytes elf_kernel() { return ElfBuilder{}.load(kBase, pattern(0x2345), 0x6000).entry(kBase + 0x10).build(); }
Bytes pvh_kernel() { return ElfBuilder{}.load(kBase, pattern(0x2345), 0x6000).notes(pvh_note(kBase + 0x20)).build(); }

TEST_F(PrepareBoot, AnElfKernelIsEnteredByTheLinuxProtocol) {
  const auto entry = prepare(64, elf_kernel());
  ASSERT_TRUE(entry) << entry.error().message;
  EXPECT_EQ(entry->protocol, EntryProtocol::Linux64);
  EXPECT_EQ(entry->instruction, GuestAddress{kBase + 0x10});
  EXPECT_EQ(entry->parameters, layout::kZeroPage);
  const auto page = load<boot_params>(0x7000);
  EXPECT_EQ(std::uint16_t{page.hdr.boot_flag}, 0xAA55);
  EXPECT_EQ(std::uint32_t{page.hdr.header}, 0x5372'6448U);
  EXPECT_EQ(page.hdr.type_of_loader, 0xFF);
  EXPECT_EQ(std::uint32_t{page.hdr.cmd_line_ptr}, 0x2'0000U);
  EXPECT_EQ(std::uint64_t{page.acpi_rsdp_addr}, 0xE'0000U);
  EXPECT_EQ(page.sentinel, 0);
  EXPECT_EQ(std::uint32_t{page.hdr.ramdisk_size}, 0U);
  EXPECT_STREQ(reinterpret_cast<const char*>(memory->bytes(GuestAddress{0x2'0000}, 64)->data()), "quiet panic=1");
  EXPECT_EQ(load<std::uint32_t>(0x9'FC00), 0x5F50'4D5FU) << "MP table";
  EXPECT_NE(load<std::uint64_t>(0x9000), 0U) << "page tables";
}

TEST_F(PrepareBoot, ABzImageKeepsItsHeaderButForTheLoadersFields) {
  give_initrd(5000);
  const auto entry = prepare(64, BzImageBuilder{}.build());
  ASSERT_TRUE(entry) << entry.error().message;
  EXPECT_EQ(entry->protocol, EntryProtocol::Linux64);
  EXPECT_EQ(entry->instruction, GuestAddress{0x10'0200});
  const auto page = load<boot_params>(0x7000);
  EXPECT_EQ(std::uint32_t{page.hdr.init_size}, 0x80'0000U);
  EXPECT_EQ(page.hdr.type_of_loader, 0xFF);
  EXPECT_EQ(std::uint64_t{page.hdr.setup_data}, 0U) << "the image has no say in it";
  EXPECT_EQ(std::uint32_t{page.hdr.ramdisk_image}, 64 * kMiB - 2 * kGuestPageSize);
  EXPECT_EQ(std::uint32_t{page.hdr.ramdisk_size}, 5000U);
  EXPECT_TRUE(initrd_is_at(page.hdr.ramdisk_image));
}

TEST_F(PrepareBoot, AKernelWithAPvhNoteGetsStartInfo) {
  give_initrd(4096);
  const auto entry = prepare(64, pvh_kernel());
  ASSERT_TRUE(entry) << entry.error().message;
  EXPECT_EQ(entry->protocol, EntryProtocol::Pvh);
  EXPECT_EQ(entry->instruction, GuestAddress{kBase + 0x20});
  EXPECT_EQ(entry->parameters, GuestAddress{0x6000});
  const auto info = load<PvhStartInfo>(0x6000);
  EXPECT_EQ(info.magic, 0x336E'C578U);
  EXPECT_EQ(info.version, 1U);
  EXPECT_EQ(info.command_line_address, 0x2'0000U);
  EXPECT_EQ(info.rsdp_address, 0xE'0000U);
  ASSERT_EQ(info.module_count, 1U);
  const auto module = load<PvhModule>(info.module_list_address);
  EXPECT_EQ(module.address, 64 * kMiB - 4096);
  EXPECT_EQ(module.size, 4096U);
  EXPECT_TRUE(initrd_is_at(module.address));
  ASSERT_EQ(info.memory_map_entries, 3U);
  EXPECT_EQ(load<PvhMemoryMapEntry>(info.memory_map_address).size, 0x9'FC00U);
  const auto last = load<PvhMemoryMapEntry>(info.memory_map_address + 2 * sizeof(PvhMemoryMapEntry));
  EXPECT_EQ(last.start, 0x10'0000U);
  EXPECT_EQ(last.size, 63 * kMiB);
  EXPECT_EQ(last.type, 1U);
}

TEST_F(PrepareBoot, WithoutAnInitrdStartInfoHasNoModules) {
  ASSERT_TRUE(prepare(64, pvh_kernel()));
  EXPECT_EQ(load<PvhStartInfo>(0x6000).module_count, 0U);
  EXPECT_EQ(load<PvhStartInfo>(0x6000).module_list_address, 0U);
}

TEST_F(PrepareBoot, TheMemoryMapGoesAroundTheHole) {
  const Entry low{0, 0x9'FC00, 1};
  const Entry reserved{0x9'FC00, 0x6'0400, 2};
  ASSERT_TRUE(prepare(128, elf_kernel()));
  EXPECT_EQ(e820(), (std::vector{low, reserved, Entry{kMiB, 127 * kMiB, 1}}));
  ASSERT_TRUE(prepare(3328, elf_kernel()));
  EXPECT_EQ(e820(), (std::vector{low, reserved, Entry{kMiB, 0xD000'0000 - kMiB, 1}}));
  ASSERT_TRUE(prepare(3329, elf_kernel()));
  EXPECT_EQ(e820(), (std::vector{low, reserved, Entry{kMiB, 0xD000'0000 - kMiB, 1}, Entry{1ULL << 32, kMiB, 1}}));
  ASSERT_TRUE(prepare(5120, elf_kernel()));
  EXPECT_EQ(e820(),
            (std::vector{low, reserved, Entry{kMiB, 0xD000'0000 - kMiB, 1}, Entry{1ULL << 32, 1792 * kMiB, 1}}));
}

TEST_F(PrepareBoot, TheInitrdStaysBelowTheHoleAndWhereTheKernelWantsIt) {
  give_initrd(4096);
  ASSERT_TRUE(prepare(5120, elf_kernel()));
  EXPECT_EQ(std::uint32_t{load<boot_params>(0x7000).hdr.ramdisk_image}, 0xD000'0000U - 4096);
  BzImageBuilder builder;
  builder.header.initrd_addr_max = 0x1FF'FFFF;
  ASSERT_TRUE(prepare(5120, builder.build()));
  EXPECT_EQ(std::uint32_t{load<boot_params>(0x7000).hdr.ramdisk_image}, 0x200'0000U - 4096);
}

TEST_F(PrepareBoot, AnInitrdThatDoesNotFitIsRefusedWithBothSizes) {
  give_initrd(12 * kMiB);
  expect_error(prepare(28, elf_kernel()), ErrorKind::TooLarge,
               {"initrd_path /images/initrd", "12582912", "0x1006000", "mem_size_mib", "smaller initrd"});
  EXPECT_TRUE(prepare(29, elf_kernel()));
  BzImageBuilder low;
  low.header.initrd_addr_max = 0x10'0000;
  expect_error(prepare(64, low.build()), ErrorKind::TooLarge, {"has 0 bytes for it"});
}

TEST_F(PrepareBoot, AnythingElseIsNamedForWhatItIs) {
  expect_error(prepare(64, bytes_of("\x1F\x8B\x08")), ErrorKind::InvalidArgument,
               {"kernel_image_path /images/test is compressed with gzip", "give an ELF vmlinux or a bzImage"});
  expect_error(prepare(64, bytes_of("#!/bin/sh\n")), ErrorKind::InvalidArgument, {"is a script"});
  expect_error(prepare(64, bytes_of("\x7F")), ErrorKind::InvalidArgument, {"give an ELF vmlinux or a bzImage"});
}

TEST_F(PrepareBoot, NoSizeOfMemoryBreaksIt) {
  give_initrd(100'000);
  for (std::uint64_t size_mib = 1; size_mib <= 40; ++size_mib) {
    for (const Bytes& kernel : {elf_kernel(), pvh_kernel(), BzImageBuilder{}.build()}) {
      const auto entry = prepare(size_mib, kernel);
      if (!entry) expect_error(entry, ErrorKind::TooLarge, {"mem_size_mib"});
      EXPECT_TRUE(entry || size_mib < 25) << size_mib;
      EXPECT_TRUE(!entry || size_mib > 16) << size_mib;
    }
  }
}

TEST_F(PrepareBoot, NothingIsWrittenWhenTheChecksFail) {
  ElfBuilder builder;
  builder.load(kBase, pattern(0x2345), 0x6000).load(kBase + 0x8000, pattern(1), ~0ULL >> 8).entry(kBase);
  ASSERT_FALSE(prepare(64, builder.build()));
  EXPECT_EQ(load<std::uint64_t>(kBase), 0U);
  EXPECT_EQ(load<std::uint64_t>(0x7000), 0U);
}

TEST_F(PrepareBoot, CommandLineAndProcessorCountAreChecked) {
  options.command_line = std::string(kMaximumCommandLine + 1, 'x');
  expect_error(prepare(64, elf_kernel()), ErrorKind::TooLarge, {"command line", "2048", "2047"});
  options.command_line = std::string("a\0b", 3);
  expect_error(prepare(64, elf_kernel()), ErrorKind::InvalidArgument, {"NUL"});
  options.command_line.clear();
  EXPECT_TRUE(prepare(64, elf_kernel()));
  for (const unsigned count : {0U, 33U, ~0U}) {
    options.vcpu_count = count;
    expect_error(prepare(64, elf_kernel()), ErrorKind::InvalidArgument, {"vcpu_count", "32"});
  }
}

TEST_F(PrepareBoot, WindowsMayNotClashWithEachOtherOrTheMachine) {
  const auto with = [&](std::initializer_list<VirtioMmioWindow> windows) {
    options.windows = windows;
    return prepare(64, elf_kernel());
  };
  constexpr GuestAddress kFirst{0xD000'0000};
  EXPECT_TRUE(with({{kFirst, 4096, 5}, {GuestAddress{0xD000'1000}, 4096, 6}, {GuestAddress{0xFEBF'F000}, 4096, 23}}));
  expect_error(with({{kFirst, 4096, 5}, {GuestAddress{0xD000'0800}, 4096, 6}}), ErrorKind::InvalidArgument,
               {"0xd0000800", "overlaps"});
  for (const GuestAddress base : {GuestAddress{0}, GuestAddress{0xCFFF'F000}, GuestAddress{0xFEBF'F001},
                                  GuestAddress{0xFEE0'0000}, GuestAddress{~0ULL}})
    expect_error(with({{base, 4096, 5}}), ErrorKind::InvalidArgument, {"leaves"});
  expect_error(with({{kFirst, 0, 5}}), ErrorKind::InvalidArgument, {"0 bytes"});
  expect_error(with({{kFirst, ~0ULL, 5}}), ErrorKind::InvalidArgument, {"leaves"});
  for (const unsigned gsi : {0U, 1U, 2U, 4U, 9U, 24U, ~0U})
    expect_error(with({{kFirst, 4096, gsi}}), ErrorKind::InvalidArgument, {"interrupt line"});
  expect_error(with({{kFirst, 4096, 5}, {GuestAddress{0xD000'1000}, 4096, 5}}), ErrorKind::InvalidArgument, {"taken"});
}

TEST_F(PrepareBoot, EveryMachineHasAGenerationIdOfItsOwn) {
  ASSERT_TRUE(prepare(64, elf_kernel()));
  const auto first = load<std::array<std::uint64_t, 2>>(layout::kGenerationId.value);
  ASSERT_TRUE(prepare(64, elf_kernel()));
  EXPECT_NE(first, (load<std::array<std::uint64_t, 2>>(layout::kGenerationId.value)));
}

}  // namespace
}  // namespace mayfly
