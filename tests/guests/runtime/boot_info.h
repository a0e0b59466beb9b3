#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

/// What the monitor told the guest at its entry, whichever way it was booted.
namespace guest {

enum class BootProtocol : std::uint32_t { Pvh = 1, Linux64 = 2 };  // boot.S sets it

/// One entry of the memory map. Types as in e820: 1 is usable.
struct MemoryRange {
  std::uint64_t start;
  std::uint64_t size;
  std::uint32_t type;
  [[nodiscard]] constexpr std::uint64_t end() const { return start + size; }
  [[nodiscard]] constexpr bool usable() const { return type == 1; }
};

struct BootInfo {
  BootProtocol protocol;
  std::uint64_t structure;  ///< Address of hvm_start_info or of the zero page.
  std::string_view command_line;
  std::span<const MemoryRange> memory;  ///< In the monitor's order; at most kMaximumRanges.
  std::uint64_t initrd_start;           ///< 0 where there is none.
  std::uint64_t initrd_size;
  std::uint64_t rsdp;  ///< Address of the ACPI root pointer; 0 where there is none.

  static constexpr std::size_t kMaximumRanges = 128;

  /// All usable bytes of the map.
  [[nodiscard]] std::uint64_t usable_bytes() const;
  /// The value of the word NAME=VALUE of the command line; nullopt where it is not there.
  [[nodiscard]] std::optional<std::string_view> text(std::string_view name) const;
  /// The same as a number, decimal or 0x..., with an optional K, M or G; `otherwise` where it is not there or no
  /// number.
  [[nodiscard]] std::uint64_t number(std::string_view name, std::uint64_t otherwise) const;
  /// Whether the command line has this word, alone or with a value.
  [[nodiscard]] bool has(std::string_view name) const;
};

/// Reads what the entry left behind. Fails the guest where the structure is not what its protocol says.
[[nodiscard]] BootInfo read_boot_info();

}  // namespace guest
