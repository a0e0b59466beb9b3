#pragma once

#include "rootfs-tools/image/byte_source.h"

#include <archive_entry.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

struct archive;

/// A tar archive of any dialect (ustar, pax, GNU, v7), by libarchive.
///
///   TarReader tar{source};
///   while (TRY(tar.next())) {
///     archive_entry* const entry = tar.entry();
///     ...
///     while (const auto block = TRY(tar.data())) ...
///   }
///
/// Names are the bytes that the archive has. libarchive would convert those of pax archives from UTF-8 to the locale's
/// character set, and normalize them on the way; in the C locale, which a program has that never calls setlocale(), that
/// fails for each name beyond ASCII, and it gives the bytes.
///
/// An archive may end with its last file's last byte, as layers of umoci's insert do: no block of zeros after it, nor the rest
/// of the block.
namespace mayfly::image {

class TarReader {
 public:
  explicit TarReader(ByteSource& source);
  TarReader(const TarReader&) = delete;
  TarReader& operator=(const TarReader&) = delete;
  ~TarReader();

  /// Goes to the next entry; false at the archive's end.
  [[nodiscard]] Result<bool> next();
  /// The one that next() went to, valid until the next call of it.
  [[nodiscard]] archive_entry* entry() const noexcept { return entry_; }

  struct Block {
    std::uint64_t offset;
    std::span<const std::byte> bytes;
  };
  /// The next piece of the entry's data: what lies between pieces is a hole. None at its end.
  [[nodiscard]] Result<std::optional<Block>> data();

  /// How many bytes of the archive were passed: after next(), where the entry's data begin.
  [[nodiscard]] std::uint64_t position() const noexcept;

 private:
  friend struct TarCallbacks;
  [[nodiscard]] Error failure();
  std::ptrdiff_t pad(const void** bytes) noexcept;

  ByteSource& source_;
  archive* archive_ = nullptr;
  archive_entry* entry_ = nullptr;
  std::optional<Error> source_failure_;
  bool opened_ = false;
  std::uint64_t source_bytes_ = 0;
  bool is_padded_ = false;
  std::uint64_t data_begin_ = 0;  // of the entry
};

}  // namespace mayfly::image
