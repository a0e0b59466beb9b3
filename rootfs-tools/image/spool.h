#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

/// Data of files between the layers that have it and the file system that gets it.
///
///   auto spool = TRY(Spool::create("/var/images"));
///   const FileData data = spool.reserve(size);
///   TRY(spool.write(data, offset, bytes));   // what nobody writes is a hole
///
/// The file has no name: it is gone with the process, whatever ends it.
namespace mayfly::image {

/// A file without a name in `directory`, for reading and writing.
[[nodiscard]] Result<OwnedFd> make_nameless_file(const std::string& directory);

/// Where the data of one file is in a spool.
struct FileData {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

class Spool {
 public:
  [[nodiscard]] static Result<Spool> create(const std::string& directory);

  /// A place for `size` bytes, all of them a hole. Callers bound what they reserve in all (ImageLimits::max_bytes).
  [[nodiscard]] FileData reserve(std::uint64_t size) noexcept;
  /// Writes `bytes` from `offset` of the file on, which must be within it.
  [[nodiscard]] Status write(const FileData& file, std::uint64_t offset, std::span<const std::byte> bytes) const;
  /// Reads from `offset` of the file on; holes are zeros.
  [[nodiscard]] Status read(const FileData& file, std::uint64_t offset, std::span<std::byte> bytes) const;
  /// The first byte of data at `offset` or after it; the size where there is none.
  [[nodiscard]] std::uint64_t next_data(const FileData& file, std::uint64_t offset) const noexcept;

 private:
  explicit Spool(OwnedFd file) noexcept : file_(std::move(file)) {}

  OwnedFd file_;
  std::uint64_t end_ = 0;
};

}  // namespace mayfly::image
