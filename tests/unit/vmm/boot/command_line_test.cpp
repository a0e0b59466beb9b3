#include "vmm/boot/command_line.h"

#include "tests/unit/vmm/boot/boot_images.h"
#include "vmm/boot/layout.h"
#include "vmm/config/configuration.h"

#include <array>

namespace mayfly {
namespace {

TEST(CommandLine, NamesAWindowAsLinuxParsesIt) {
  EXPECT_EQ(virtio_mmio_argument({.base = GuestAddress{0xD000'0000}, .size = 4096, .gsi = 5}),
            "virtio_mmio.device=4K@0xd0000000:5");
  EXPECT_EQ(virtio_mmio_argument({.base = GuestAddress{0xD000'1000}, .size = 512, .gsi = 23}),
            "virtio_mmio.device=0x200@0xd0001000:23");
}

TEST(CommandLine, AdditionsGoBehindTheKernelsArgumentsAndBeforeThoseOfInit) {
  const std::array<std::string, 2> additions{"root=/dev/vda", "ro"};
  const auto composed = [&](std::string_view line) { return compose_command_line(line, additions).value_or("error"); };
  EXPECT_EQ(composed(""), "root=/dev/vda ro");
  EXPECT_EQ(composed("quiet"), "quiet root=/dev/vda ro");
  EXPECT_EQ(composed("quiet "), "quiet root=/dev/vda ro");
  EXPECT_EQ(composed("quiet -- --help"), "quiet root=/dev/vda ro -- --help");
  EXPECT_EQ(composed("-- sh"), "root=/dev/vda ro -- sh");
  EXPECT_EQ(composed("quiet --"), "quiet root=/dev/vda ro --");
  EXPECT_EQ(composed("a=\"x -- y\" b"), "a=\"x -- y\" b root=/dev/vda ro");
  EXPECT_EQ(composed("--x a--"), "--x a-- root=/dev/vda ro");
  EXPECT_EQ(compose_command_line("a -- b", {}), "a -- b");
}

TEST(CommandLine, TheLimitCountsWhatIsAdded) {
  const std::array<std::string, 1> addition{"ro"};
  EXPECT_TRUE(compose_command_line(std::string(kMaximumCommandLine - 3, 'x'), addition));
  expect_error(compose_command_line(std::string(kMaximumCommandLine - 2, 'x'), addition), ErrorKind::TooLarge,
               {std::to_string(kMaximumCommandLine + 1), std::to_string(kMaximumCommandLine), "boot_args"});
}

TEST(CommandLine, ANulByteIsRefused) {
  expect_error(check_command_line({"a\0b", 3}), ErrorKind::InvalidArgument, {"NUL", "offset 1"});
}

TEST(CommandLine, IsWrittenWithItsEnd) {
  auto memory = GuestMemory::create({.size_mib = 1});
  ASSERT_TRUE(write_command_line(*memory, std::string(kMaximumCommandLine, 'x')));
  ASSERT_TRUE(write_command_line(*memory, "quiet"));
  EXPECT_STREQ(reinterpret_cast<const char*>(memory->bytes(layout::kCommandLine, 64)->data()), "quiet");
}

}  // namespace
}  // namespace mayfly
