#pragma once

#include "vmm/base/error.h"
#include "vmm/boot/address_range.h"
#include "vmm/boot/image_file.h"
#include "vmm/memory/guest_memory.h"

#include <asm/bootparam.h>

#include <cstdint>

/// A bzImage, entered by the 64-bit protocol (Linux Documentation/arch/x86/boot.rst): what distributions ship. Its
/// protected-mode part is loaded at 1 MiB and unpacks the kernel to `runtime` by itself.
///
///   auto image = BzImage::parse(file, memory.low_end(), command_line.size());
///   auto loaded = image->load(file, memory);
namespace mayfly {

class BzImage {
 public:
  /// Reads and checks the setup header; touches no guest memory. `ram_end` is the end of low RAM.
  /// Errors: truncated, protocol older than 2.12 (no xloadflags), no 64-bit entry, a header that contradicts itself,
  /// too little RAM for what the kernel needs to unpack itself, a command line longer than this kernel takes.
  [[nodiscard]] static Result<BzImage> parse(const ImageFile& file, GuestAddress ram_end,
                                             std::size_t command_line_size);

  /// Puts the protected-mode part at 1 MiB. Errors: the read fails.
  [[nodiscard]] Status load(const ImageFile& file, GuestMemory& memory) const;

  /// The image's setup header as the zero page carries it on; the loader's fields are still the image's own.
  [[nodiscard]] const setup_header& header() const noexcept { return header_; }
  /// 64-bit code: 0x200 into the protected-mode part.
  [[nodiscard]] GuestAddress entry() const noexcept;
  /// Where the protected-mode part lies.
  [[nodiscard]] const AddressRange& loaded() const noexcept { return loaded_; }
  /// What the kernel uses before it looks at the memory map (init_size).
  [[nodiscard]] const AddressRange& runtime() const noexcept { return runtime_; }
  /// The end of both.
  [[nodiscard]] std::uint64_t end() const noexcept;

 private:
  BzImage() = default;
  [[nodiscard]] Status check_header(const ImageFile& file, std::size_t command_line_size) const;
  [[nodiscard]] Status place(const ImageFile& file, GuestAddress ram_end);

  setup_header header_{};
  std::uint64_t file_offset_ = 0;
  AddressRange loaded_;
  AddressRange runtime_;
};

}  // namespace mayfly
