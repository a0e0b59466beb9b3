#pragma once

#include <cstdint>

/// What an image may ask for. Whoever builds an image chooses what it contains, so each has a bound that a user can set.
namespace mayfly::image {

struct ImageLimits {
  std::uint64_t max_bytes = std::uint64_t{16} << 30;  ///< Of all layers unpacked, and of all files, holes included.
  std::uint64_t max_files = 1'000'000;                ///< Entries of all layers, and directories that they imply.
  std::uint64_t max_layers = 500;
  std::uint64_t max_ratio = 200;  ///< Unpacked bytes for one byte of a layer, beyond kRatioCounts.
  /// Names, link targets and extended attributes, with what holds these.
  std::uint64_t max_metadata_bytes = std::uint64_t{256} << 20;
  /// Names that are looked up in all: links of links would let a small layer take hours. No image comes near it.
  std::uint64_t max_lookups = std::uint64_t{1} << 28;
};

/// So many bytes a layer may have whatever its ratio: a small file of zeros is no bomb.
inline constexpr std::uint64_t kRatioCounts = std::uint64_t{64} << 20;

/// Of manifests, indexes and configurations.
inline constexpr std::size_t kLongestDocument = std::size_t{4} << 20;

}  // namespace mayfly::image
