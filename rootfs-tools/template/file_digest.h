#pragma once

#include "vmm/base/error.h"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

/// Digests of a template's files: "sha256:" and what sha256sum(1) says; of those with holes "sparse-sha256:" and the SHA-256 of
/// every block of 64 KiB that is not all zeros, each behind its number (eight bytes, the lowest first). So a hole of gigabytes
/// costs nothing, and a copy that has zeros in its place has the same digest.
namespace mayfly::image {

inline constexpr std::string_view kSparseDigest = "sparse-sha256:";

enum class FileKind { Plain, Sparse };

/// Of the first `size` bytes. `on_bytes` is told now and then how many more are done. Error: it cannot be read, or is shorter.
[[nodiscard]] Result<std::string> digest_of_file(int file, std::uint64_t size, FileKind kind, const std::string& path,
                                                 const std::function<void(std::uint64_t)>& on_bytes = {});

}  // namespace mayfly::image
