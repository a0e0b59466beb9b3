#pragma once

#include "vmm/base/error.h"
#include "vmm/base/thread_kind.h"

#include <linux/filter.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// Compiled filters as the monitor holds them: a header, a table of threads, and their programs one after the other.
namespace mayfly::seccomp {

/// In a program, the place of the number of the process that installs it: the kernel gives no process such a number
/// (PID_MAX_LIMIT is 2^22).
inline constexpr std::uint32_t kOwnProcess = 0x6f776e21;

/// How a blob begins. Numbers are in the machine's byte order: it is of the machine that it was made for.
struct BlobHeader {
  std::array<char, 8> magic;  ///< kBlobMagic
  std::uint32_t version;      ///< kBlobVersion
  std::uint32_t count;        ///< Of the entries that follow.
};
struct BlobEntry {
  std::array<char, 16> thread;  ///< Its name, filled up with zeros.
  std::uint32_t offset;         ///< Of the program's first byte in the blob, a multiple of 8.
  std::uint32_t length;         ///< In instructions.
};
inline constexpr std::array<char, 8> kBlobMagic = {'m', 'a', 'y', 'f', 'l', 'y', 'S', 'F'};
inline constexpr std::uint32_t kBlobVersion = 1;
/// Threads that a blob may name: more than there are, so that one of a later version can be told from garbage.
inline constexpr std::uint32_t kMostFilters = 16;
/// The largest blob there is: what follows from the kernel's longest program.
inline constexpr std::size_t kLargestBlob =
    sizeof(BlobHeader) + kMostFilters * (sizeof(BlobEntry) + BPF_MAXINSNS * sizeof(sock_filter));

/// The programs of all kinds of threads, within the bytes that they were found in.
struct FilterPrograms {
  std::array<std::span<const sock_filter>, kThreadNames.size()> of_kind;
  [[nodiscard]] std::span<const sock_filter> of(ThreadKind kind) const noexcept {
    return of_kind[static_cast<std::size_t>(kind)];
  }
};

/// Finds them, copying nothing; `blob` is aligned to 8 bytes. Errors: no blob, another version, a length that does not
/// fit, a thread without a filter. What the programs do is the kernel's to check, when they are installed.
[[nodiscard]] Result<FilterPrograms> find_programs(std::span<const std::byte> blob);

/// A program and the thread that it is for.
struct NamedProgram {
  std::string_view thread;  ///< At most 15 bytes.
  std::span<const sock_filter> program;
};
[[nodiscard]] std::vector<std::byte> make_blob(std::span<const NamedProgram> programs);

}  // namespace mayfly::seccomp
