#include "rootfs-tools/image/tar_reader.h"

#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <archive.h>

#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

namespace mayfly::image {
namespace {

constexpr std::size_t kTarBlock = 512;

}  // namespace

/// What libarchive calls.
struct TarCallbacks {
  static la_ssize_t read(archive* /*archive*/, void* reader, const void** bytes) {
    auto& self = *static_cast<TarReader*>(reader);
    auto next = self.source_.next();
    if (!next) {
      self.source_failure_ = std::move(next.error());
      return ARCHIVE_FATAL;
    }
    if (next->empty()) return self.pad(bytes);
    self.source_bytes_ += next->size();
    *bytes = next->data();
    return static_cast<la_ssize_t>(next->size());
  }
  static la_int64_t skip(archive* /*archive*/, void* reader, la_int64_t count) {
    auto& self = *static_cast<TarReader*>(reader);
    if (count <= 0) return 0;
    const std::uint64_t skipped = self.source_.skip(static_cast<std::uint64_t>(count));
    self.source_bytes_ += skipped;
    return static_cast<la_int64_t>(skipped);
  }
};

TarReader::TarReader(ByteSource& source) : source_(source), archive_(::archive_read_new()) {
  if (archive_ == nullptr) return;
  ::archive_read_support_format_tar(archive_);
  ::archive_read_support_format_empty(archive_);  // a layer may have nothing at all
}

TarReader::~TarReader() { ::archive_read_free(archive_); }

Error TarReader::failure() {
  if (source_failure_) return *std::exchange(source_failure_, std::nullopt);
  const char* const text = archive_ != nullptr ? ::archive_error_string(archive_) : "no memory";
  return Error{ErrorKind::InvalidArgument,
               fmt::format("it is no whole tar archive ({}); copy or fetch the image again",
                           printable(text != nullptr ? text : "no reason given", kLongestShownMessage))};
}

/// What the last block lacks.
std::ptrdiff_t TarReader::pad(const void** bytes) noexcept {
  static constexpr std::array<std::byte, kTarBlock> kZeros{};
  if (is_padded_ || source_bytes_ % kTarBlock == 0) return 0;
  is_padded_ = true;
  *bytes = kZeros.data();
  return static_cast<std::ptrdiff_t>(kTarBlock - source_bytes_ % kTarBlock);
}

Result<bool> TarReader::next() {
  if (!opened_ && (archive_ == nullptr || ::archive_read_open2(archive_, this, nullptr, TarCallbacks::read,
                                                               TarCallbacks::skip, nullptr) != ARCHIVE_OK))
    return std::unexpected(failure());
  opened_ = true;
  const int status = ::archive_read_next_header(archive_, &entry_);
  if (status == ARCHIVE_EOF) return false;
  data_begin_ = position();
  if (status == ARCHIVE_OK) return true;
  if (status == ARCHIVE_WARN) {
    const char* const text = ::archive_error_string(archive_);
    if (text != nullptr && std::string_view{text}.contains("can't be converted")) return true;  // the name's bytes
  }
  return std::unexpected(failure());
}

Result<std::optional<TarReader::Block>> TarReader::data() {
  const void* bytes = nullptr;
  std::size_t size = 0;
  la_int64_t offset = 0;
  const int status = ::archive_read_data_block(archive_, &bytes, &size, &offset);
  if (status == ARCHIVE_EOF) {
    // By here, libarchive has also passed what pads the last block; how much that is, it says of no sparse file.
    const auto size = static_cast<std::uint64_t>(::archive_entry_size(entry_));
    const bool is_sparse = ::archive_entry_sparse_count(entry_) > 0;
    if (position() <= source_bytes_ || (!is_sparse && data_begin_ + size <= source_bytes_)) return std::nullopt;
    return fail(ErrorKind::InvalidArgument, "the archive ends within its data; copy or fetch the image again");
  }
  if (status != ARCHIVE_OK) return std::unexpected(failure());
  return Block{.offset = static_cast<std::uint64_t>(offset), .bytes = {static_cast<const std::byte*>(bytes), size}};
}

std::uint64_t TarReader::position() const noexcept {
  return static_cast<std::uint64_t>(::archive_filter_bytes(archive_, 0));
}

}  // namespace mayfly::image
