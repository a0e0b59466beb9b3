#include "vmm/boot/image_file.h"

#include "tests/unit/vmm/boot/boot_images.h"
#include "vmm/boot/image_kind.h"

#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace mayfly {
namespace {

using namespace std::string_view_literals;

class OpenBootFile : public ::testing::Test {
 protected:
  OpenBootFile() {
    std::string name = (std::filesystem::temp_directory_path() / "mayfly-boot-XXXXXX").string();
    directory_ = ::mkdtemp(name.data());
  }
  ~OpenBootFile() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  OpenBootFile(const OpenBootFile&) = delete;
  OpenBootFile& operator=(const OpenBootFile&) = delete;
  [[nodiscard]] std::string path(const std::string& name) const { return directory_ / name; }

  std::filesystem::path directory_;
};

TEST_F(OpenBootFile, OpensARegularFile) {
  std::ofstream{path("kernel")} << "x";
  const auto file = open_boot_file(path("kernel"), BootFileRole::Kernel);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_TRUE(*file);
}

TEST_F(OpenBootFile, SaysWhatIsWrongWithThePath) {
  expect_error(open_boot_file(path("none"), BootFileRole::Kernel), ErrorKind::NotFound,
               {"kernel_image_path " + path("none"), "does not exist", "vmlinux or a bzImage"});
  expect_error(open_boot_file(directory_, BootFileRole::Kernel), ErrorKind::InvalidArgument,
               {"is a directory; give the path of an ELF vmlinux or a bzImage"});
  expect_error(open_boot_file("", BootFileRole::Initrd), ErrorKind::InvalidArgument, {"initrd_path is empty"});
  expect_error(open_boot_file(std::string("a\0b", 3), BootFileRole::Initrd), ErrorKind::InvalidArgument, {"NUL"});
  std::ofstream{path("empty")}.close();
  expect_error(open_boot_file(path("empty"), BootFileRole::Initrd), ErrorKind::InvalidArgument,
               {"initrd_path", "is empty; give the path of an initramfs"});
  expect_error(open_boot_file("/dev/null", BootFileRole::Kernel), ErrorKind::InvalidArgument, {"a character device"});
  expect_error(open_boot_file(path("empty") + "/below", BootFileRole::Kernel), ErrorKind::NotFound,
               {"cannot open", "ENOTDIR"});
}

TEST_F(OpenBootFile, DoesNotWaitForTheOtherEndOfAFifo) {
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  expect_error(open_boot_file(path("fifo"), BootFileRole::Kernel), ErrorKind::InvalidArgument, {"is a FIFO"});
}

TEST_F(OpenBootFile, AFileThatMayNotBeReadIsAPermissionError) {
  std::ofstream{path("secret")} << "x";
  ASSERT_EQ(::chmod(path("secret").c_str(), 0), 0);
  const std::string directory = path("secret").substr(0, path("secret").rfind('/'));
  ASSERT_EQ(::chmod(directory.c_str(), 0755), 0);
  // Root may read everything: only a process that has given that up can see it.
  EXPECT_EXIT(
      {
        const bool dropped = ::geteuid() != 0 || ::setresuid(65534, 65534, 65534) == 0;
        const auto refused = open_boot_file(path("secret"), BootFileRole::Kernel);
        if (dropped && !refused && refused.error().kind == ErrorKind::Permission)
          std::fputs(refused.error().message.c_str(), stderr);
        std::_Exit(0);
      },
      ::testing::ExitedWithCode(0), "cannot be read");
}

TEST(ImageFile, ReadsOnlyWhatIsThere) {
  const MemoryFile memory_file{pattern(100)};
  const ImageFile file = memory_file.image();
  EXPECT_EQ(file.size(), 100U);
  EXPECT_EQ(file.load<std::uint8_t>(99, "a byte"), std::to_integer<std::uint8_t>(pattern(100)[99]));
  expect_error(file.load<std::uint16_t>(99, "a word"), ErrorKind::InvalidArgument,
               {"truncated", "a word", "100 bytes"});
  expect_error(file.load<std::uint64_t>(~0ULL - 3, "a word"), ErrorKind::InvalidArgument, {"truncated"});
  EXPECT_TRUE(file.holds(100, 0));
  EXPECT_FALSE(file.holds(101, 0));
  EXPECT_FALSE(file.holds(1, ~0ULL));
}

TEST(ImageFile, ADescriptorThatIsNoFileIsRefused) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  const OwnedFd reader{ends[0]};
  const OwnedFd writer{ends[1]};
  expect_error(ImageFile::of(reader.get(), BootFileRole::Kernel, "/p"), ErrorKind::InvalidArgument, {"is a FIFO"});
  expect_error(ImageFile::of(-1, BootFileRole::Kernel, "/p"), ErrorKind::System, {"EBADF"});
}

std::string described(std::string_view first) { return describe_unknown_image(std::as_bytes(std::span{first})); }

TEST(ImageKind, KnowsTheTwoThatCanBeBooted) {
  EXPECT_EQ(image_kind(ElfBuilder{}.build()), ImageKind::Elf);
  EXPECT_EQ(image_kind(BzImageBuilder{}.build()), ImageKind::BzImage);
  EXPECT_EQ(image_kind(Bytes(0x206)), ImageKind::Other);
  EXPECT_EQ(image_kind(bytes_of("\x7F")), ImageKind::Other);
  EXPECT_EQ(image_kind({}), ImageKind::Other);
}

TEST(ImageKind, NamesWhatUsersMistakeForAKernel) {
  EXPECT_EQ(described("\x1F\x8B\x08\0\0"sv), "compressed with gzip; unpack it with gunzip");
  EXPECT_EQ(described("\x28\xB5\x2F\xFD\0"sv), "compressed with zstd; unpack it with unzstd");
  EXPECT_EQ(described("#!/bin/sh\n"), "a script");
  EXPECT_EQ(described("linux /vmlinuz root=/dev/vda\n"), "a text file");
  EXPECT_EQ(described("070701000"), "a cpio archive, as an initrd is");
  EXPECT_EQ(described("MZ\x90\0\3"sv), "a PE (EFI or Windows) program without a Linux setup header");
  std::string arm = std::string("MZ") + std::string(0x36, '\0') + "ARM\x64";
  EXPECT_EQ(described(arm), "an arm64 Image");
  EXPECT_EQ(described("\0\0\0\0"sv), "all zero where it begins");
  EXPECT_EQ(described("\xDE\xAD\xBE\xEF"), "of an unknown kind (it begins with de ad be ef)");
  EXPECT_EQ(described("\x01"), "of an unknown kind (it begins with 01)");
}

}  // namespace
}  // namespace mayfly
