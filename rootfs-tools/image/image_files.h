#pragma once

#include "rootfs-tools/image/byte_source.h"
#include "rootfs-tools/image/limits.h"

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

/// The files that an image consists of: of a directory, or of a tar archive of one.
///
///   auto files = TRY(ImageFiles::open("app.tar", limits, "/tmp"));
///   if (files.has("index.json")) ... TRY(files.read("index.json", kLongestDocument)) ...
///   auto blob = TRY(files.open("blobs/sha256/..."));
///
/// Names are the image's own: none leads out of the directory, by ".." or by a link. Parts of an archive are read where
/// they lie; only one that is packed, or a pipe, is unpacked to a temporary file first.
namespace mayfly::image {

/// Of an image that is copied first: a pipe's, or a packed one.
struct CopyHooks {
  std::function<void(std::uint64_t bytes)> on_copied{};  ///< So many in all. Called often.
  int cancel = -1;  ///< Ends the wait for a pipe, with an error, once it can be read; -1: nothing does.
};

class ImageFiles {
 public:
  /// `scratch`: the directory for the temporary file.
  [[nodiscard]] static Result<ImageFiles> open(const std::string& path, const ImageLimits& limits,
                                               const std::string& scratch, const CopyHooks& hooks = {});

  [[nodiscard]] bool has(std::string_view name) const;
  /// Errors name the file and the image.
  [[nodiscard]] Result<FilePart> open(std::string_view name) const;
  [[nodiscard]] Result<std::string> read(std::string_view name, std::size_t longest) const;

 private:
  struct Member {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    std::string link{};  ///< The name that it stands for; empty: it is a file.
  };

  ImageFiles(std::shared_ptr<const OwnedFd> file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
  [[nodiscard]] Status index(std::uint64_t size, const ImageLimits& limits);
  [[nodiscard]] Result<FilePart> open_member(std::string_view name) const;
  [[nodiscard]] Result<FilePart> open_in_directory(std::string_view name) const;

  std::shared_ptr<const OwnedFd> file_;  // the archive, or the directory
  std::string path_;
  bool is_archive_ = false;
  std::map<std::string, Member, std::less<>> members_;
};

}  // namespace mayfly::image
