#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

/// Bytes that are read from their begin to their end.
namespace mayfly::image {

class ByteSource {
 public:
  ByteSource() = default;
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;
  virtual ~ByteSource() = default;
  /// The next bytes, valid until the next call; none at the end.
  [[nodiscard]] virtual Result<std::span<const std::byte>> next() = 0;
  /// Passes over at most `count` bytes without reading them; how many.
  virtual std::uint64_t skip(std::uint64_t /*count*/) { return 0; }
};

/// A part of a file: a blob of an image.
struct FilePart {
  std::shared_ptr<const OwnedFd> file;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

/// The bytes of a part, of a file that may be cut off meanwhile.
class PartSource final : public ByteSource {
 public:
  explicit PartSource(FilePart part);
  [[nodiscard]] Result<std::span<const std::byte>> next() override;
  std::uint64_t skip(std::uint64_t count) override;
  /// How many were given.
  [[nodiscard]] std::uint64_t done() const noexcept { return done_; }

 private:
  FilePart part_;
  std::uint64_t done_ = 0;
  std::vector<std::byte> buffer_;
};

/// All bytes of a part, of which there may be `longest`. `what` names it in errors.
[[nodiscard]] Result<std::string> read_part(const FilePart& part, std::size_t longest, std::string_view what);

}  // namespace mayfly::image
