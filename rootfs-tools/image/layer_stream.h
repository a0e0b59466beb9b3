#pragma once

#include "rootfs-tools/image/byte_source.h"
#include "rootfs-tools/image/digest.h"
#include "rootfs-tools/image/limits.h"

#include <memory>

/// The tar archive of a layer, unpacked on the way, with the digests of both.
///
///   LayerStream stream{part, limits, budget};
///   TarReader tar{stream};                      // reads what it wants
///   TRY(stream.drain());                        // and this the rest, which counts in the digests
///   compare(stream.blob_digest(), stream.diff_id());
///
/// How it is packed (not at all, gzip, zstd) is seen by its first bytes, as other tools do: media types are often wrong.
namespace mayfly::image {

class Unpacker;

class LayerStream final : public ByteSource {
 public:
  /// `budget`: bytes that all layers together may still unpack to; what this one does is taken from it.
  LayerStream(FilePart part, const ImageLimits& limits, std::uint64_t& budget);
  ~LayerStream() override;

  /// Errors: not to be unpacked, over a limit.
  [[nodiscard]] Result<std::span<const std::byte>> next() override;
  [[nodiscard]] Status drain();

  /// Once all was read.
  [[nodiscard]] std::string blob_digest() { return packed_hash_.digest(); }
  [[nodiscard]] std::string diff_id() { return unpacked_hash_.digest(); }

  /// Of the packed bytes.
  [[nodiscard]] std::uint64_t done() const noexcept { return source_.done(); }

 private:
  [[nodiscard]] Status begin();
  [[nodiscard]] Status refill();
  [[nodiscard]] Status count(std::uint64_t bytes);

  PartSource source_;
  ImageLimits limits_;
  std::uint64_t& budget_;
  std::unique_ptr<Unpacker> unpacker_;  // none: plain
  bool begun_ = false;
  bool ended_ = false;
  std::span<const std::byte> input_;
  std::vector<std::byte> output_;
  std::uint64_t unpacked_bytes_ = 0;
  Sha256 packed_hash_;
  Sha256 unpacked_hash_;
};

/// What an archive's first bytes say of how it is packed.
enum class Packing { Plain, Gzip, Zstd, Xz, Bzip2 };
[[nodiscard]] Packing packing_of(std::span<const std::byte> begin) noexcept;

}  // namespace mayfly::image
