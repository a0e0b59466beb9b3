#pragma once

#include <cstddef>
#include <span>
#include <string>

/// What a kernel image is, by its first bytes.
///
///   switch (image_kind(first_bytes)) { case ImageKind::Elf: ... case ImageKind::BzImage: ... case ImageKind::Other: }
namespace mayfly {

enum class ImageKind { Elf, BzImage, Other };

/// How many of a file's first bytes the functions below look at (fewer where the file is shorter).
inline constexpr std::size_t kImageKindBytes = 0x206;

/// ELF by its magic; bzImage by "HdrS" at 0x202 (Linux Documentation/arch/x86/boot.rst, "The real-mode kernel header").
[[nodiscard]] ImageKind image_kind(std::span<const std::byte> first) noexcept;

/// What a file of kind Other seems to be, to go after "is": "compressed with gzip; unpack it first".
[[nodiscard]] std::string describe_unknown_image(std::span<const std::byte> first);

}  // namespace mayfly
