#include "rootfs-tools/image/byte_source.h"

#include "vmm/base/files.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

namespace mayfly::image {
namespace {

constexpr std::size_t kReadAtOnce = std::size_t{256} << 10;

}  // namespace

PartSource::PartSource(FilePart part) : part_(std::move(part)), buffer_(kReadAtOnce) {}

Result<std::span<const std::byte>> PartSource::next() {
  const auto wanted = std::span{buffer_}.first(std::min<std::uint64_t>(buffer_.size(), part_.size - done_));
  errno = 0;
  const std::size_t count = read_all_at(part_.file->get(), wanted, part_.offset + done_);
  if (count < wanted.size() && errno != 0) return fail_errno(ErrorKind::System, "it cannot be read");
  if (count < wanted.size())
    return fail(ErrorKind::InvalidArgument, "the file ends before it does; copy or fetch the image again");
  done_ += count;
  return wanted;
}

std::uint64_t PartSource::skip(std::uint64_t count) {
  const std::uint64_t skipped = std::min(count, part_.size - done_);
  done_ += skipped;
  return skipped;
}

Result<std::string> read_part(const FilePart& part, std::size_t longest, std::string_view what) {
  if (part.size > longest)
    return fail(ErrorKind::TooLarge, "{} has {} bytes, and {} are allowed; build the image anew", what, part.size,
                longest);
  std::string text(part.size, '\0');
  errno = 0;
  if (read_all_at(part.file->get(), std::as_writable_bytes(std::span{text}), part.offset) == text.size()) return text;
  if (errno != 0) return fail_errno(ErrorKind::System, "{} cannot be read", what);
  return fail(ErrorKind::InvalidArgument, "{} is cut off; copy or fetch the image again", what);
}

}  // namespace mayfly::image
