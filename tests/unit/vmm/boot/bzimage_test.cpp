#include "vmm/boot/bzimage.h"

#include "tests/unit/vmm/boot/boot_images.h"

namespace mayfly {
namespace {

constexpr GuestAddress kRamEnd{64 * kMiB};

Result<BzImage> parse(const BzImageBuilder& builder, GuestAddress ram_end = kRamEnd, std::size_t command_line = 100) {
  const MemoryFile file{builder.build()};
  return BzImage::parse(file.image(), ram_end, command_line);
}

TEST(BzImage, LoadsItsProtectedModePartAtOneMib) {
  for (const std::uint8_t sectors : {std::uint8_t{7}, std::uint8_t{0}, std::uint8_t{64}}) {
    BzImageBuilder builder;
    builder.header.setup_sects = sectors;
    const MemoryFile file{builder.build()};
    auto memory = GuestMemory::create({.size_mib = 64});
    const auto image = BzImage::parse(file.image(), memory->low_end(), 0);
    ASSERT_TRUE(image) << image.error().message;
    ASSERT_TRUE(image->load(file.image(), *memory));
    EXPECT_TRUE(std::ranges::equal(*memory->bytes(GuestAddress{kMiB}, builder.payload.size()), builder.payload));
    EXPECT_EQ(image->entry(), GuestAddress{kMiB + 0x200});
    EXPECT_EQ(image->loaded().size(), builder.payload.size());
  }
}

TEST(BzImage, KeepsTheSetupHeaderUpToItsEnd) {
  BzImageBuilder builder;
  builder.header.kernel_info_offset = 0x7777;
  const auto whole = parse(builder);
  ASSERT_TRUE(whole) << whole.error().message;
  EXPECT_EQ(std::uint32_t{whole->header().kernel_info_offset}, 0x7777U);
  EXPECT_EQ(std::uint64_t{whole->header().pref_address}, 0x100'0000U);

  builder.header.jump = 0x62EB;  // ends at 0x264, before kernel_info_offset
  const auto shorter = parse(builder);
  ASSERT_TRUE(shorter) << shorter.error().message;
  EXPECT_EQ(std::uint32_t{shorter->header().kernel_info_offset}, 0U);
}

TEST(BzImage, RunsWhereItsHeaderSays) {
  BzImageBuilder builder;
  EXPECT_EQ(parse(builder)->runtime().start, 0x100'0000U);
  EXPECT_EQ(parse(builder)->end(), 0x180'0000U);
  builder.header.pref_address = 0;
  EXPECT_EQ(parse(builder)->runtime().start, 0x20'0000U) << "aligned upwards from where it was loaded";
  builder.header.relocatable_kernel = 0;
  builder.header.pref_address = 0x123'4000;
  EXPECT_EQ(parse(builder)->runtime().start, 0x123'4000U);
}

TEST(BzImage, TooLittleMemoryToUnpackIsSaidInMib) {
  expect_error(parse({}, GuestAddress{16 * kMiB}), ErrorKind::TooLarge, {"0x1800000", "mem_size_mib to 24"});
  EXPECT_TRUE(parse({}, GuestAddress{24 * kMiB}));
  expect_error(parse({}, GuestAddress{kMiB}), ErrorKind::TooLarge, {"mem_size_mib to 24"});
}

TEST(BzImage, OldAndNarrowKernelsAreNamedAsSuch) {
  BzImageBuilder old;
  old.header.version = 0x0209;
  expect_error(parse(old), ErrorKind::InvalidArgument, {"2.09", "2.12"});
  BzImageBuilder narrow;
  narrow.header.xloadflags = 0;
  expect_error(parse(narrow), ErrorKind::InvalidArgument, {"32-bit", "64-bit bzImage"});
  BzImageBuilder low;
  low.header.loadflags = 0;
  expect_error(parse(low), ErrorKind::InvalidArgument, {"zImage"});
  BzImageBuilder damaged;
  damaged.header.boot_flag = 0;
  expect_error(parse(damaged), ErrorKind::InvalidArgument, {"boot flag", "0xaa55"});
}

TEST(BzImage, ACommandLineLongerThanTheKernelTakesIsRefused) {
  EXPECT_TRUE(parse({}, kRamEnd, 2047));
  expect_error(parse({}, kRamEnd, 2048), ErrorKind::TooLarge, {"2048", "2047", "boot_args"});
}

TEST(BzImage, AFileCutAnywhereIsCalledTruncated) {
  const Bytes whole = BzImageBuilder{}.build();
  for (std::size_t size = 1; size + 15 < whole.size(); size += 97) {
    const MemoryFile file{Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size))};
    expect_error(BzImage::parse(file.image(), kRamEnd, 0), ErrorKind::InvalidArgument, {"truncated"});
  }
}

TEST(BzImage, HeadersThatContradictThemselvesAreRefused) {
  const auto damaged = [](auto change) {
    BzImageBuilder builder;
    change(builder.header);
    return parse(builder);
  };
  expect_error(damaged([](auto& header) { header.syssize = 0xFFFF'FFFF; }), ErrorKind::InvalidArgument, {"truncated"});
  expect_error(damaged([](auto& header) { header.syssize = 1; }), ErrorKind::InvalidArgument, {"truncated"});
  expect_error(damaged([](auto& header) { header.kernel_alignment = 0; }), ErrorKind::InvalidArgument,
               {"power of two"});
  expect_error(damaged([](auto& header) { header.kernel_alignment = 3; }), ErrorKind::InvalidArgument,
               {"power of two"});
  for (const std::uint64_t address : {~0ULL, ~0ULL - 0x20'0000, 0x4000'0000ULL})
    expect_error(damaged([=](auto& header) { header.pref_address = address; }), ErrorKind::InvalidArgument,
                 {"1 MiB and 1 GiB"});
  expect_error(damaged([](auto& header) { header.init_size = 0; }), ErrorKind::InvalidArgument, {"damaged"});
  expect_error(damaged([](auto& header) { header.init_size = 0xFFFF'FFFF; }), ErrorKind::InvalidArgument, {"damaged"});
  expect_error(damaged([](auto& header) {
                 header.relocatable_kernel = 0;
                 header.pref_address = 0x1000;
               }),
               ErrorKind::InvalidArgument, {"1 MiB"});
}

}  // namespace
}  // namespace mayfly
