#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <nettle/sha2.h>

/// Digests as images write them: "sha256:" and 64 hexadecimal digits.
namespace mayfly::image {

class Sha256 {
 public:
  Sha256() noexcept { ::nettle_sha256_init(&context_); }
  void update(std::span<const std::byte> bytes) noexcept;
  /// Of all bytes since the construction, or since the last call.
  [[nodiscard]] std::string digest();

 private:
  sha256_ctx context_{};
};

[[nodiscard]] std::string digest_of(std::string_view text);

/// Whether it is a SHA-256 digest, in the one spelling that the specification allows.
[[nodiscard]] bool is_digest(std::string_view text) noexcept;

/// The name that an image layout gives the blob of a digest: "blobs/sha256/...".
[[nodiscard]] std::string blob_name(std::string_view digest);

/// Enough of a digest to tell it from others in a message.
[[nodiscard]] std::string short_digest(std::string_view digest);

}  // namespace mayfly::image
