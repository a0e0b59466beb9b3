#pragma once

#include "vmm/base/error.h"
#include "vmm/boot/address_range.h"
#include "vmm/boot/image_file.h"

#include <cstdint>

/// Where an initrd goes: page-aligned, as high as it fits, so that the kernel can grow below it.
///
///   auto place = place_initrd(file, {.start = kernel_end, .end = memory.low_end().value});
namespace mayfly {

/// The range of the initrd in `free`, which lies between the end of the kernel and the highest address that RAM and the
/// kernel allow. Its start is a page's. Errors: TooLarge, naming both sizes and the remedy. Touches no guest memory.
[[nodiscard]] Result<AddressRange> place_initrd(const ImageFile& file, const AddressRange& free);

}  // namespace mayfly
