#pragma once

#include "vmm/base/owned_fd.h"
#include "vmm/boot/image_file.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

/// Kernel images made to order, right unless a test says otherwise.
///
///   const MemoryFile file{ElfBuilder{}.load(0x100000, bytes_of("code"), 0x2000).entry(0x100000).build()};
///   auto image = ElfImage::parse(file.image(), GuestAddress{64 * kMiB});
namespace mayfly {

using Bytes = std::vector<std::byte>;

inline Bytes bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span{text});
  return {bytes.begin(), bytes.end()};
}

/// Bytes that tell where they came from: each differs from its neighbours.
inline Bytes pattern(std::size_t size) {
  Bytes bytes(size);
  for (std::size_t at = 0; at < size; ++at) bytes[at] = static_cast<std::byte>(at * 7 + at / 256 + 1);
  return bytes;
}

template <typename T>
void append_value(Bytes& bytes, const T& value) {
  const auto more = std::as_bytes(std::span{&value, 1});
  bytes.insert(bytes.end(), more.begin(), more.end());
}

/// A file without a name.
class MemoryFile {
 public:
  explicit MemoryFile(const Bytes& content) : fd_(::memfd_create("image", MFD_CLOEXEC)) {
    EXPECT_EQ(::pwrite(fd_.get(), content.data(), content.size(), 0), static_cast<ssize_t>(content.size()));
  }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] ImageFile image(BootFileRole role = BootFileRole::Kernel) const {
    auto file = ImageFile::of(fd(), role, "/images/test");
    EXPECT_TRUE(file) << file.error().message;
    return *file;
  }

 private:
  OwnedFd fd_;
};

/// One note, padded to 4 bytes (or 8).
inline Bytes elf_note(std::string_view name, std::uint32_t type, const Bytes& descriptor, std::size_t padding = 4) {
  Bytes note;
  append_value(note, Elf64_Nhdr{.n_namesz = static_cast<Elf64_Word>(name.size()),
                                .n_descsz = static_cast<Elf64_Word>(descriptor.size()),
                                .n_type = type});
  const auto name_bytes = bytes_of(name);
  note.insert(note.end(), name_bytes.begin(), name_bytes.end());
  while (note.size() % padding != 0) note.push_back({});
  note.insert(note.end(), descriptor.begin(), descriptor.end());
  while (note.size() % padding != 0) note.push_back({});
  return note;
}

inline Bytes pvh_note(std::uint64_t entry, std::size_t size = 8) {
  Bytes descriptor;
  append_value(descriptor, entry);
  descriptor.resize(size);
  return elf_note({"Xen\0", 4}, 18, descriptor);
}

class ElfBuilder {
 public:
  ElfBuilder() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_ehsize = sizeof(Elf64_Ehdr);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phoff = sizeof(Elf64_Ehdr);
  }

  /// A PT_LOAD whose file offset agrees with its address modulo the page size, as linkers make it.
  ElfBuilder& load(std::uint64_t address, const Bytes& content, std::uint64_t memory_size) {
    return segment(PT_LOAD, address, content, memory_size);
  }
  ElfBuilder& notes(const Bytes& content) { return segment(PT_NOTE, 0, content, content.size()); }
  ElfBuilder& entry(std::uint64_t address) {
    header.e_entry = address;
    return *this;
  }
  [[nodiscard]] Bytes build() const {
    Elf64_Ehdr final_header = header;
    if (final_header.e_phnum == 0) final_header.e_phnum = static_cast<Elf64_Half>(segments.size());
    Bytes file = content_;
    if (file.size() < kTablesEnd) file.resize(kTablesEnd);
    std::memcpy(file.data(), &final_header, sizeof(final_header));
    if (!segments.empty())
      std::memcpy(file.data() + sizeof(final_header), segments.data(), segments.size() * sizeof(Elf64_Phdr));
    return file;
  }

  Elf64_Ehdr header{};               ///< For tests that damage it; e_phnum 0 becomes the number of segments.
  std::vector<Elf64_Phdr> segments;  ///< The same.

 private:
  static constexpr std::size_t kTablesEnd = 0x200;

  ElfBuilder& segment(Elf64_Word type, std::uint64_t address, const Bytes& content, std::uint64_t memory_size) {
    constexpr std::uint64_t kPage = 4096;
    std::uint64_t offset = (std::max(content_.size(), kTablesEnd) + kPage - 1) / kPage * kPage + address % kPage;
    content_.resize(offset);
    content_.insert(content_.end(), content.begin(), content.end());
    segments.push_back({.p_type = type,
                        .p_flags = PF_R | PF_W | PF_X,
                        .p_offset = offset,
                        .p_vaddr = address,
                        .p_paddr = address,
                        .p_filesz = content.size(),
                        .p_memsz = memory_size,
                        .p_align = type == PT_NOTE ? 4 : kPage});
    return *this;
  }

  Bytes content_;
};

/// A bzImage as Debian's: relocatable, to be unpacked at 16 MiB.
class BzImageBuilder {
 public:
  BzImageBuilder() {
    header.setup_sects = 7;
    header.boot_flag = 0xAA55;
    header.jump = 0x6AEB;
    header.header = 0x5372'6448;
    header.version = 0x020F;
    header.loadflags = LOADED_HIGH;
    header.xloadflags = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G;
    header.relocatable_kernel = 1;
    header.kernel_alignment = 0x20'0000;
    header.pref_address = 0x100'0000;
    header.init_size = 0x80'0000;
    header.initrd_addr_max = 0x7FFF'FFFF;
    header.cmdline_size = 2047;
    header.setup_data = 0x1234;
  }
  [[nodiscard]] std::size_t payload_offset() const {
    return (static_cast<std::size_t>(header.setup_sects == 0 ? 4 : header.setup_sects) + 1) * 512;
  }
  [[nodiscard]] Bytes build() const {
    setup_header final_header = header;
    if (final_header.syssize == 0) final_header.syssize = static_cast<std::uint32_t>((payload.size() + 15) / 16);
    Bytes file(payload_offset());
    std::memcpy(file.data() + 0x1F1, &final_header, sizeof(final_header));
    file.insert(file.end(), payload.begin(), payload.end());
    return file;
  }

  setup_header header{};  ///< For tests that damage it; syssize 0 becomes the payload's.
  Bytes payload = pattern(0x3010);
};

/// Expects a failed result whose message holds every one of the words.
template <typename T>
void expect_error(const Result<T>& result, ErrorKind kind, std::initializer_list<std::string_view> words) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind, kind) << result.error().message;
  for (const std::string_view word : words)
    EXPECT_NE(result.error().message.find(word), std::string::npos) << word << " in: " << result.error().message;
}

}  // namespace mayfly
