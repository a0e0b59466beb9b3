#include "rootfs-tools/image/image_files.h"

#include "rootfs-tools/image/layer_stream.h"
#include "rootfs-tools/image/spool.h"
#include "rootfs-tools/image/tar_reader.h"
#include "vmm/base/files.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <limits>
#include <optional>
#include <ranges>
#include <vector>

namespace mayfly::image {
namespace {

/// Links from one name of an archive to another.
constexpr int kMostMemberLinks = 8;

std::string name_shown(std::string_view name) { return printable(name, kLongestShownName); }

/// A name without ".", ".." and what is empty; none where it leads out.
std::optional<std::string> plain_name(std::string_view name) {
  std::vector<std::string_view> parts;
  for (const auto range : std::views::split(name, '/')) {
    const std::string_view part{range.begin(), range.end()};
    if (part.empty() || part == ".") continue;
    if (part != "..") {
      parts.push_back(part);
    } else if (parts.empty()) {
      return std::nullopt;
    } else {
      parts.pop_back();
    }
  }
  std::string plain;
  for (const std::string_view part : parts) {
    if (!plain.empty()) plain += '/';
    plain += part;
  }
  return plain;
}

/// A file of unknown length, such as a pipe's, which may be waited for; a part knows its own.
class DescriptorSource final : public ByteSource {
 public:
  DescriptorSource(int file, int cancel) : file_(file), cancel_(cancel), buffer_(std::size_t{256} << 10) {}
  Result<std::span<const std::byte>> next() override {
    for (;;) {
      std::array ready{pollfd{.fd = file_, .events = POLLIN, .revents = 0},
                       pollfd{.fd = cancel_, .events = POLLIN, .revents = 0}};
      if (::poll(ready.data(), ready.size(), -1) > 0 && ready[1].revents != 0)
        return fail(ErrorKind::State, "interrupted");
      const ssize_t count = ::read(file_, buffer_.data(), buffer_.size());
      if (count >= 0) return std::span{buffer_}.first(static_cast<std::size_t>(count));
      if (errno != EINTR && errno != EAGAIN) return fail_errno(ErrorKind::System, "it cannot be read");
    }
  }

 private:
  int file_;
  int cancel_;
  std::vector<std::byte> buffer_;
};

/// Writes all that `source` has to a temporary file; its length is `size`.
Result<OwnedFd> copy_to_scratch(ByteSource& source, std::uint64_t longest, const std::string& scratch,
                                const std::function<void(std::uint64_t)>& on_copied, std::uint64_t& size) {
  auto file = TRY(make_nameless_file(scratch));
  for (size = 0;;) {
    const auto bytes = TRY(source.next());
    if (bytes.empty()) return file;
    if (bytes.size() > longest - size)
      return fail(ErrorKind::TooLarge, "it has over {} bytes; --max-size raises the limit", longest);
    if (!write_all_at(file.get(), bytes, size))
      return fail_errno(ErrorKind::System, "a temporary file in {} cannot be written", scratch);
    size += bytes.size();
    if (on_copied) on_copied(size);
  }
}

}  // namespace

Result<ImageFiles> ImageFiles::open(const std::string& path, const ImageLimits& limits, const std::string& scratch,
                                    const CopyHooks& hooks) {
  // A FIFO is waited for where it is read: whoever named it fills it.
  auto file = std::make_shared<OwnedFd>(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!*file) return fail_errno(ErrorKind::NotFound, "--image {} cannot be opened", path);
  struct stat status{};
  if (::fstat(file->get(), &status) != 0) return fail_errno(ErrorKind::System, "--image {} cannot be looked at", path);
  ImageFiles files{file, path};
  if (S_ISDIR(status.st_mode)) return files;
  files.is_archive_ = true;
  auto size = static_cast<std::uint64_t>(status.st_size);
  if (!S_ISREG(status.st_mode)) {
    DescriptorSource source{file->get(), hooks.cancel};
    auto copy = copy_to_scratch(source, limits.max_bytes, scratch, hooks.on_copied, size);
    if (!copy) return propagate(copy, "--image " + path);
    file = std::make_shared<OwnedFd>(std::move(*copy));
  }
  std::array<std::byte, 8> begin{};
  const std::size_t have = read_all_at(file->get(), begin, 0);
  if (packing_of(std::span{begin}.first(have)) != Packing::Plain) {
    std::uint64_t budget = limits.max_bytes;
    LayerStream unpacked{{.file = file, .offset = 0, .size = size}, limits, budget};
    auto copy = copy_to_scratch(unpacked, limits.max_bytes, scratch, hooks.on_copied, size);
    if (!copy) return propagate(copy, "--image " + path);
    file = std::make_shared<OwnedFd>(std::move(*copy));
  }
  files.file_ = file;
  if (auto indexed = files.index(size, limits); !indexed) return propagate(indexed, "--image " + path);
  return files;
}

Status ImageFiles::index(std::uint64_t size, const ImageLimits& limits) {
  PartSource source{{.file = file_, .offset = 0, .size = size}};
  TarReader tar{source};
  std::uint64_t entries = 0;
  std::uint64_t names_bytes = 0;
  for (;;) {
    const bool more = TRY(tar.next());
    if (!more) return {};
    if (++entries > limits.max_files)
      return fail(ErrorKind::TooLarge, "the archive has over {} files; --max-files raises the limit", limits.max_files);
    const char* const path = ::archive_entry_pathname(tar.entry());
    const auto name = plain_name(path != nullptr ? path : "");
    if (!name || name->empty()) continue;
    Member member{.offset = tar.position()};
    // `docker save` and `podman save` link layers that images share.
    const char* const link = ::archive_entry_hardlink(tar.entry());
    const bool is_link = link != nullptr || ::archive_entry_filetype(tar.entry()) == AE_IFLNK;
    if (link != nullptr) {
      member.link = plain_name(link).value_or("");
    } else if (is_link) {
      const char* const target = ::archive_entry_symlink(tar.entry());
      const std::string directory = name->substr(0, name->rfind('/') == std::string::npos ? 0 : name->rfind('/') + 1);
      member.link = plain_name(directory + (target != nullptr ? target : "")).value_or("");
    } else if (::archive_entry_filetype(tar.entry()) == AE_IFREG && ::archive_entry_sparse_count(tar.entry()) == 0 &&
               ::archive_entry_size(tar.entry()) >= 0) {
      member.size = static_cast<std::uint64_t>(::archive_entry_size(tar.entry()));
      if (member.offset > size || member.size > size - member.offset)
        return fail(ErrorKind::InvalidArgument, "its file '{}' is cut off; copy or fetch the image again",
                    name_shown(*name));
    } else {
      continue;
    }
    if (is_link && member.link.empty()) continue;  // it leads out
    names_bytes += name->size() + member.link.size();
    if (names_bytes > limits.max_metadata_bytes)
      return fail(ErrorKind::TooLarge, "the archive's names have over {} bytes; --max-metadata raises the limit",
                  limits.max_metadata_bytes);
    members_.insert_or_assign(*name, std::move(member));
  }
}

bool ImageFiles::has(std::string_view name) const { return open(name).has_value(); }

Result<FilePart> ImageFiles::open(std::string_view name) const {
  return is_archive_ ? open_member(name) : open_in_directory(name);
}

Result<FilePart> ImageFiles::open_member(std::string_view name) const {
  std::string at = plain_name(name).value_or("");
  for (int links = 0; links <= kMostMemberLinks; ++links) {
    const auto member = members_.find(at);
    if (member == members_.end()) break;
    if (member->second.link.empty())
      return FilePart{.file = file_, .offset = member->second.offset, .size = member->second.size};
    at = member->second.link;
  }
  return fail(ErrorKind::NotFound, "--image {} has no file '{}'; copy or fetch the image again", path_,
              name_shown(name));
}

Result<FilePart> ImageFiles::open_in_directory(std::string_view name) const {
  // Not to wait for a FIFO; and nothing outside of the directory is the image's.
  const open_how how{.flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
                     .mode = 0,
                     .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
  const std::string path{name};
  auto file =
      std::make_shared<OwnedFd>(static_cast<int>(::syscall(SYS_openat2, file_->get(), path.c_str(), &how, sizeof how)));
  if (!*file && errno == ENOENT)
    return fail(ErrorKind::NotFound, "--image {} has no file '{}'; copy or fetch the image again", path_,
                name_shown(name));
  if (!*file) return fail_errno(ErrorKind::NotFound, "--image {}: '{}' cannot be opened", path_, name_shown(name));
  struct stat status{};
  if (::fstat(file->get(), &status) != 0 || !S_ISREG(status.st_mode))
    return fail(ErrorKind::InvalidArgument, "--image {}: '{}' is no file", path_, name_shown(name));
  return FilePart{.file = std::move(file), .offset = 0, .size = static_cast<std::uint64_t>(status.st_size)};
}

Result<std::string> ImageFiles::read(std::string_view name, std::size_t longest) const {
  auto part = TRY(open(name));
  return read_part(part, longest, fmt::format("--image {}: '{}'", path_, name_shown(name)));
}

}  // namespace mayfly::image
