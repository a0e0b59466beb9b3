#pragma once

#include "vmm/base/error.h"
#include "vmm/boot/address_range.h"
#include "vmm/boot/image_file.h"
#include "vmm/memory/guest_memory.h"

#include <cstdint>
#include <optional>
#include <vector>

/// An ELF vmlinux: checked whole first, then loaded.
///
///   auto image = ElfImage::parse(file, memory.low_end());
///   auto loaded = image->load(file, memory);
///
/// Segments lie at their physical addresses (p_paddr), as the link script of Linux gives them; so does e_entry.
namespace mayfly {

class ElfImage {
 public:
  struct Segment {
    std::uint64_t file_offset;
    std::uint64_t file_size;
    AddressRange memory;
  };

  /// Reads and checks headers and notes; touches no guest memory. `ram_end` is the end of low RAM.
  /// Errors (InvalidArgument, TooLarge where more RAM would help), each a sentence with path, value and remedy:
  /// truncated, 32-bit, big-endian, other machine, not an executable, program headers or segments outside the file,
  /// more headers or notes than any kernel has, p_filesz > p_memsz, sums that wrap, segments below 1 MiB, beyond RAM
  /// or over each other, an entry outside the segments.
  [[nodiscard]] static Result<ElfImage> parse(const ImageFile& file, GuestAddress ram_end);

  /// Puts the segments in place (see GuestMemory::place_file). What p_memsz has beyond p_filesz is left as it is: the
  /// memory must be fresh, thus zero. Errors: the read fails.
  [[nodiscard]] Status load(const ImageFile& file, GuestMemory& memory) const;

  /// In file order, never empty.
  [[nodiscard]] const std::vector<Segment>& segments() const noexcept { return segments_; }
  /// e_entry: where 64-bit code starts. In a segment and below 1 GiB unless there is a PVH entry.
  [[nodiscard]] GuestAddress entry() const noexcept { return entry_; }
  /// Where 32-bit code starts, for kernels that have a PVH note. In a segment.
  [[nodiscard]] std::optional<GuestAddress> pvh_entry() const noexcept { return pvh_entry_; }
  /// The end of the highest segment.
  [[nodiscard]] std::uint64_t end() const noexcept;

 private:
  ElfImage() = default;
  [[nodiscard]] Status check_apart(const ImageFile& file) const;
  [[nodiscard]] Status check_entries(const ImageFile& file, std::uint64_t entry,
                                     std::optional<std::uint32_t> pvh_entry);
  [[nodiscard]] bool holds(std::uint64_t address) const noexcept;

  std::vector<Segment> segments_;
  GuestAddress entry_;
  std::optional<GuestAddress> pvh_entry_;
};

}  // namespace mayfly
