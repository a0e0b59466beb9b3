#include "jailer/executable.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <elf.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly::jailer {
namespace {

using mayfly::testing::make_file;
using mayfly::testing::ScratchDirectory;

/// An executable's first bytes, with one program header of each given type.
std::string elf_image(const std::vector<std::uint32_t>& segments, std::uint16_t type = ET_EXEC) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_type = type;
  header.e_machine = EM_X86_64;
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = static_cast<std::uint16_t>(segments.size());
  std::string image(reinterpret_cast<const char*>(&header), sizeof header);
  for (const std::uint32_t each : segments) {
    Elf64_Phdr segment{};
    segment.p_type = each;
    image.append(reinterpret_cast<const char*>(&segment), sizeof segment);
  }
  return image;
}

std::string refusal_of(const std::string& image) {
  const auto checked = check_static_elf(std::as_bytes(std::span{image}), "/bin/x");
  return checked ? "" : checked.error().message;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(JailExecutable, IsAStaticElf) {
  EXPECT_EQ(refusal_of(elf_image({PT_LOAD, PT_NOTE})), "");
  EXPECT_EQ(refusal_of(elf_image({PT_LOAD, PT_DYNAMIC}, ET_DYN)), "") << "static, position-independent";
}

TEST(JailExecutable, IsNeitherScriptNorDynamicNorForAnotherMachine) {
  EXPECT_TRUE(has(refusal_of("#!/bin/sh\n"), "is a script"));
  EXPECT_TRUE(has(refusal_of(elf_image({PT_LOAD, PT_INTERP})), "is dynamically linked"));
  EXPECT_TRUE(has(refusal_of(""), "is not an executable for x86-64"));
  EXPECT_TRUE(has(refusal_of("\x7f"
                             "ELF"),
                  "is not an executable for x86-64"));
  EXPECT_TRUE(has(refusal_of(elf_image({}, ET_REL)), "is not an executable for x86-64"));
  std::string arm = elf_image({PT_LOAD});
  arm[offsetof(Elf64_Ehdr, e_machine)] = static_cast<char>(EM_AARCH64);
  EXPECT_TRUE(has(refusal_of(arm), "is not an executable for x86-64"));
}

TEST(JailExecutable, WhoseHeadersLieIsRefusedWithoutReadingBeyondThem) {
  const std::string whole = elf_image({PT_LOAD, PT_INTERP});
  for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_NE(refusal_of(whole.substr(0, length)), "");
  std::string far = elf_image({PT_LOAD});
  const std::uint64_t beyond = ~0ULL - 8;
  std::memcpy(far.data() + offsetof(Elf64_Ehdr, e_phoff), &beyond, sizeof beyond);
  EXPECT_TRUE(has(refusal_of(far), "program headers"));
}

TEST(JailExecutable, IsARegularFileThatCanBeExecuted) {
  const ScratchDirectory scratch;
  const std::string path = make_file(scratch.file("monitor"), elf_image({PT_LOAD}));
  const auto refused = open_executable(path);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(has(refused.error().message, "is not executable (chmod a+x)"));
  ASSERT_EQ(::chmod(path.c_str(), 0755), 0);
  const auto opened = open_executable(path);
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->name, "monitor");
  EXPECT_EQ(opened->size, static_cast<off_t>(elf_image({PT_LOAD}).size()));
}

TEST(JailExecutable, IsNamedAsItWasGivenAlsoByALink) {
  const ScratchDirectory scratch;
  const std::string path = make_file(scratch.file("mayfly-0.1"), elf_image({PT_LOAD}));
  ASSERT_EQ(::chmod(path.c_str(), 0755), 0);
  std::filesystem::create_symlink(path, scratch.file("firecracker"));
  const auto opened = open_executable(scratch.file("firecracker"));
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->name, "firecracker");
}

TEST(JailExecutable, ThatIsSomethingElseIsRefusedWithoutWaiting) {
  const ScratchDirectory scratch;
  ASSERT_EQ(::mkfifo(scratch.file("fifo").c_str(), 0777), 0);
  const std::string directory = scratch.file("");
  for (const std::string& path : {scratch.file("fifo"), directory, std::string{"/dev/null"}}) {
    const auto refused = open_executable(path);
    ASSERT_FALSE(refused);
    EXPECT_TRUE(has(refused.error().message, "is not a regular file")) << refused.error().message;
  }
  EXPECT_TRUE(has(open_executable(scratch.file("none")).error().message, "cannot be opened"));
}

}  // namespace
}  // namespace mayfly::jailer
