#include "jailer/executable.h"

#include "jailer/directories.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cstring>

namespace mayfly::jailer {
namespace {

/// Program headers follow the ELF header in every linker's output.
constexpr std::size_t kHeadSize = 4096;

template <typename T>
bool copy_at(std::span<const std::byte> head, std::uint64_t offset, T& into) noexcept {
  if (offset > head.size() || head.size() - offset < sizeof into) return false;
  std::memcpy(&into, head.data() + offset, sizeof into);
  return true;
}

}  // namespace

Status check_static_elf(std::span<const std::byte> head, const std::string& path) {
  if (head.size() >= 2 && std::memcmp(head.data(), "#!", 2) == 0)
    return fail(ErrorKind::InvalidArgument,
                "--exec-file {} is a script; its interpreter would not be in the jail: give a static executable", path);
  Elf64_Ehdr header{};
  if (!copy_at(head, 0, header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
      header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64 ||
      (header.e_type != ET_EXEC && header.e_type != ET_DYN))
    return fail(ErrorKind::InvalidArgument, "--exec-file {} is not an executable for x86-64 (ELF)", path);
  for (std::uint64_t index = 0; index < header.e_phnum; ++index) {
    Elf64_Phdr segment{};
    if (header.e_phentsize != sizeof segment || header.e_phoff > head.size() ||
        !copy_at(head, header.e_phoff + index * sizeof segment, segment))
      return fail(ErrorKind::InvalidArgument, "--exec-file {} has its program headers where no linker puts them", path);
    if (segment.p_type == PT_INTERP)
      return fail(ErrorKind::InvalidArgument,
                  "--exec-file {} is dynamically linked; its libraries would not be in the jail: link it with -static",
                  path);
  }
  return {};
}

Result<Executable> open_executable(const std::string& path) {
  Executable executable{.file = OwnedFd{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)},
                        .name = last_name(path)};
  if (!executable.file) return fail_errno(ErrorKind::NotFound, "--exec-file {} cannot be opened", path);
  struct stat status{};
  if (::fstat(executable.file.get(), &status) != 0)
    return fail_errno(ErrorKind::System, "--exec-file {} cannot be looked at", path);
  if (!S_ISREG(status.st_mode)) return fail(ErrorKind::InvalidArgument, "--exec-file {} is not a regular file", path);
  if ((status.st_mode & (S_IXUSR | S_IXGRP | S_IXOTH)) == 0)
    return fail(ErrorKind::InvalidArgument, "--exec-file {} is not executable (chmod a+x)", path);
  executable.size = status.st_size;
  std::array<std::byte, kHeadSize> head{};
  const ssize_t count = ::pread(executable.file.get(), head.data(), head.size(), 0);
  if (count < 0) return fail_errno(ErrorKind::System, "--exec-file {} cannot be read", path);
  if (auto good = check_static_elf(std::span{head}.first(static_cast<std::size_t>(count)), path); !good)
    return propagate(good);
  return executable;
}

}  // namespace mayfly::jailer
