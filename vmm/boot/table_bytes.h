#pragma once

#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

#include <cstdint>
#include <cstring>
#include <vector>

/// Bytes of a table for the guest under construction, and the checksum that MP and ACPI tables have in common.
///
///   TableBytes table;
///   append(table, Header{...});
///   append(table, body);
///   set_checksum(table, offset_of_the_checksum);
namespace mayfly {

using TableBytes = std::vector<std::uint8_t>;

inline void append(TableBytes& table, const TableBytes& more) { table.insert(table.end(), more.begin(), more.end()); }

/// Appends a packed structure, little-endian as the guest is.
template <TriviallyCopyable T>
void append(TableBytes& table, const T& value) {
  const std::size_t at = table.size();
  table.resize(at + sizeof(T));
  std::memcpy(table.data() + at, &value, sizeof(T));
}

/// Replaces the bytes at `offset`.
template <TriviallyCopyable T>
void put(TableBytes& table, std::size_t offset, const T& value) {
  ensure(offset <= table.size() && sizeof(T) <= table.size() - offset, "a field lies outside its table");
  std::memcpy(table.data() + offset, &value, sizeof(T));
}

/// Sets the byte at `offset` so that all bytes of the table add up to 0.
inline void set_checksum(TableBytes& table, std::size_t offset) {
  put(table, offset, std::uint8_t{0});
  unsigned sum = 0;
  for (const std::uint8_t byte : table) sum += byte;
  put(table, offset, static_cast<std::uint8_t>(0x100U - (sum & 0xFF)));
}

}  // namespace mayfly
