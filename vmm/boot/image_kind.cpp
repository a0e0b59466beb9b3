#include "vmm/boot/image_kind.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

#include <fmt/format.h>

namespace mayfly {
namespace {

using namespace std::string_view_literals;

struct Signature {
  std::size_t offset;
  std::string_view magic;
  std::string_view meaning;
};

/// Most telling first: an arm64 Image with an EFI stub begins with "MZ" too.
constexpr std::array kSignatures{
    Signature{0x38, "ARM\x64"sv, "an arm64 Image"},
    Signature{0x30, "RISCV\0\0\0"sv, "a RISC-V Image"},
    Signature{0, "\x1F\x8B"sv, "compressed with gzip; unpack it with gunzip"},
    Signature{0,
              "\xFD"
              "7zXZ"sv,
              "compressed with xz; unpack it with unxz"},
    Signature{0, "\x28\xB5\x2F\xFD"sv, "compressed with zstd; unpack it with unzstd"},
    Signature{0, "BZh"sv, "compressed with bzip2; unpack it with bunzip2"},
    Signature{0, "\x02\x21\x4C\x18"sv, "compressed with lz4; unpack it with lz4 -d"},
    Signature{0, "\x04\x22\x4D\x18"sv, "compressed with lz4; unpack it with lz4 -d"},
    Signature{0, "\x5D\0\0"sv, "compressed with lzma; unpack it with unlzma"},
    Signature{0, "\x89LZO\0"sv, "compressed with lzop; unpack it with lzop -d"},
    Signature{0, "PK\x03\x04"sv, "a zip archive"},
    Signature{257, "ustar"sv, "a tar archive"},
    Signature{0, "070701"sv, "a cpio archive, as an initrd is"},
    Signature{0, "070702"sv, "a cpio archive, as an initrd is"},
    Signature{0, "QFI\xFB"sv, "a qcow2 disk image"},
    Signature{0, "hsqs"sv, "a squashfs file system"},
    Signature{0, "!<arch>\n"sv, "a static library or Debian package"},
    Signature{0, "\x27\x05\x19\x56"sv, "a U-Boot image"},
    Signature{0, "\xD0\x0D\xFE\xED"sv, "a device tree or FIT image"},
    Signature{0, "MZ"sv, "a PE (EFI or Windows) program without a Linux setup header"},
    Signature{0, "#!"sv, "a script"},
};

bool matches(std::span<const std::byte> first, std::size_t offset, std::string_view magic) noexcept {
  if (first.size() < offset || first.size() - offset < magic.size()) return false;
  return std::ranges::equal(first.subspan(offset, magic.size()), std::as_bytes(std::span{magic}));
}

bool is_text(std::span<const std::byte> first) noexcept {
  return !first.empty() && std::ranges::all_of(first, [](std::byte byte) {
    const auto code = std::to_integer<unsigned char>(byte);
    return code >= 0x20 ? code < 0x7F : (code >= '\t' && code <= '\r');
  });
}

}  // namespace

ImageKind image_kind(std::span<const std::byte> first) noexcept {
  if (matches(first, 0,
              "\x7F"
              "ELF"sv))
    return ImageKind::Elf;
  return matches(first, 0x202, "HdrS"sv) ? ImageKind::BzImage : ImageKind::Other;
}

std::string describe_unknown_image(std::span<const std::byte> first) {
  for (const Signature& signature : kSignatures)
    if (matches(first, signature.offset, signature.magic)) return std::string{signature.meaning};
  if (is_text(first)) return "a text file";
  if (std::ranges::all_of(first, [](std::byte byte) { return byte == std::byte{0}; }))
    return "all zero where it begins";
  std::string bytes;
  for (const std::byte byte : first.first(std::min<std::size_t>(first.size(), 8)))
    bytes += fmt::format(" {:02x}", std::to_integer<unsigned>(byte));
  return fmt::format("of an unknown kind (it begins with{})", bytes);
}

}  // namespace mayfly
