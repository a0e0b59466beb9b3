#pragma once

#include "snapshot/snapshot.h"

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

/// The state file: a snapshot without its memory, as bytes.
///
///   header     "MAYFLYST", format version, number of sections
///   sections   name, version, flags (bit 0: may be skipped by who does not know it), length, checksum; the content
///   end        checksum of all that came before
///
/// A newer Mayfly reads every older version: fields and sections that came later keep what a Snapshot is made with. An
/// older one refuses a newer file in words. tests/data/ keeps a file of every version that was released.
namespace mayfly {

/// What a state file begins with.
inline constexpr std::array<char, 8> kStateFileMagic = {'M', 'A', 'Y', 'F', 'L', 'Y', 'S', 'T'};
/// More than 32 vCPUs with the largest XSAVE areas take.
inline constexpr std::size_t kLargestStateFile = 16 << 20;
/// Of the format, as --snapshot-version prints it.
inline constexpr std::uint32_t kStateFormatVersion = 1;

[[nodiscard]] std::vector<std::byte> encode_snapshot(const Snapshot& snapshot);

/// The same, and decoded again, so that a snapshot that cannot be loaded is refused. Errors: what
/// decode_snapshot() says of it; more than kLargestStateFile bytes.
[[nodiscard]] Result<std::vector<std::byte>> encode_loadable(const Snapshot& snapshot);

/// Errors, each with what is wrong and where: not a state file, of a newer format, cut short, changed since it was
/// written, values that no machine has.
[[nodiscard]] Result<Snapshot> decode_snapshot(std::span<const std::byte> bytes);

/// Reads and decodes a file. Errors, with the path: those of the file (not there, a directory...) and of
/// decode_snapshot().
[[nodiscard]] Result<Snapshot> read_state_file(const std::string& path);

}  // namespace mayfly
