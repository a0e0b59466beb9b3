#include "rootfs-tools/template/file_digest.h"

#include "rootfs-tools/image/digest.h"
#include "vmm/base/files.h"
#include "vmm/base/zeros.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <vector>

namespace mayfly::image {
namespace {

constexpr std::size_t kDigestBlock = std::size_t{64} << 10;

/// The block in which the next data is; where the file system cannot tell, this one.
std::uint64_t next_data(int file, std::uint64_t at, std::uint64_t size) {
  const off_t data = ::lseek(file, static_cast<off_t>(at), SEEK_DATA);
  if (data < 0) return errno == ENXIO ? size : at;
  return std::max(at, static_cast<std::uint64_t>(data) / kDigestBlock * kDigestBlock);
}

void add_block(Sha256& hash, std::uint64_t number, std::span<const std::byte> bytes) {
  std::array<std::byte, 8> text;
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::byte>(number >> (8 * i));
  hash.update(text);
  hash.update(bytes);
}

}  // namespace

Result<std::string> digest_of_file(int file, std::uint64_t size, FileKind kind, const std::string& path,
                                   const std::function<void(std::uint64_t)>& on_bytes) {
  Sha256 hash;
  std::vector<std::byte> buffer(kDigestBlock);
  for (std::uint64_t done = 0; done < size;) {
    const std::uint64_t at = kind == FileKind::Sparse ? next_data(file, done, size) : done;
    const auto piece = std::span{buffer}.first(std::min<std::uint64_t>(buffer.size(), size - std::min(at, size)));
    if (read_all_at(file, piece, at) < piece.size()) return fail_errno(ErrorKind::System, "{} cannot be read", path);
    if (kind == FileKind::Plain)
      hash.update(piece);
    else if (!is_all_zeros(piece))
      add_block(hash, at / kDigestBlock, piece);
    if (on_bytes) on_bytes(at + piece.size() - done);
    done = at + piece.size();
  }
  return (kind == FileKind::Sparse ? "sparse-" : "") + hash.digest();
}

}  // namespace mayfly::image
