#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

/// Files that appear whole or not at all.
///
/// A new file is written as NAME.mayfly-new beside its place, synced, and renamed. For the pair of a snapshot the
/// state's rename is the moment at which the new snapshot counts; the memory's follows. Whoever is killed in between
/// leaves the new state, the old memory and NAME.mayfly-new: open_memory_file() finds it there. So a crash leaves the
/// old pair or the new one.
namespace mayfly {

/// A file in the making; removed when destroyed, unless it was given its name.
class NewFile {
 public:
  /// Makes PATH.mayfly-new, empty, for its owner alone, in place of one that was left. A symbolic link at PATH is
  /// replaced, not followed. `what` names the field in errors: a directory or device is there, nothing can be made
  /// there.
  [[nodiscard]] static Result<NewFile> create(const std::string& path, std::string_view what);
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  [[nodiscard]] const OwnedFd& fd() const noexcept { return fd_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// Writes all of it. Errors: a full disk...
  [[nodiscard]] Status write(std::span<const std::byte> bytes) const;
  /// Puts content and size on stable storage.
  [[nodiscard]] Status sync() const;
  /// Gives it its name, in place of what had it. The directory is synced, so that the name stays. Where only that
  /// fails, published() is true all the same.
  [[nodiscard]] Status publish();
  /// Whether it has its name.
  [[nodiscard]] bool published() const noexcept { return published_; }
  /// Leaves it under the name that it has while in the making.
  void keep() noexcept { fd_.reset(); }

 private:
  NewFile(OwnedFd directory, OwnedFd fd, std::string path, std::string_view what) noexcept
      : directory_(std::move(directory)), fd_(std::move(fd)), path_(std::move(path)), what_(what) {}

  OwnedFd directory_;
  OwnedFd fd_;  // none: published, or moved from
  std::string path_;
  std::string what_;
  bool published_ = false;
};

/// What NewFile::create() would say, as far as it can be known without making anything.
[[nodiscard]] Status check_new_file(const std::string& path, std::string_view what);

/// What a file is called while it is in the making.
[[nodiscard]] std::string new_name(const std::string& path);

}  // namespace mayfly
