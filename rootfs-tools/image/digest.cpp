#include "rootfs-tools/image/digest.h"

#include "vmm/base/printable.h"

#include <algorithm>
#include <array>

namespace mayfly::image {
namespace {

constexpr std::string_view kAlgorithm = "sha256:";
constexpr std::size_t kDigits = 2 * SHA256_DIGEST_SIZE;

}  // namespace

void Sha256::update(std::span<const std::byte> bytes) noexcept {
  ::nettle_sha256_update(&context_, bytes.size(), reinterpret_cast<const std::uint8_t*>(bytes.data()));
}

std::string Sha256::digest() {
  std::array<std::uint8_t, SHA256_DIGEST_SIZE> bytes{};
  ::nettle_sha256_digest(&context_, bytes.size(), bytes.data());
  return std::string{kAlgorithm} + hexadecimal_digits(std::as_bytes(std::span{bytes}));
}

std::string digest_of(std::string_view text) {
  Sha256 hash;
  hash.update(std::as_bytes(std::span{text}));
  return hash.digest();
}

bool is_digest(std::string_view text) noexcept {
  return text.size() == kAlgorithm.size() + kDigits && text.starts_with(kAlgorithm) &&
         std::ranges::all_of(text.substr(kAlgorithm.size()), [](char digit) {
           return (digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f');
         });
}

std::string blob_name(std::string_view digest) {
  return "blobs/sha256/" + std::string{digest.substr(std::min(digest.size(), kAlgorithm.size()))};
}

std::string short_digest(std::string_view digest) {
  constexpr std::size_t kShown = 12;
  return std::string{digest.substr(0, kAlgorithm.size() + kShown)};
}

}  // namespace mayfly::image
