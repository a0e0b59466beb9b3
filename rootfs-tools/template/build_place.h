#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <filesystem>
#include <string>

namespace mayfly::image {

/// The directory in which a template is made: OUTPUT.mayfly-new, locked by the process that builds, so that two builds of one
/// output do not remove each other's files. The kernel takes the lock of a build that was killed, and the next one its place.
class BuildPlace {
 public:
  /// Error: another process builds this output.
  [[nodiscard]] static Result<BuildPlace> take(const std::string& output);

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// Removes what a build that was killed has left, and says whose the directory is.
  [[nodiscard]] Status clear() const;
  /// Before the directory at `path` becomes the template: it says no more whose it is.
  [[nodiscard]] static Status hand_over(const std::filesystem::path& path);

 private:
  BuildPlace(std::string path, OwnedFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::string path_;
  OwnedFd lock_;
};

}  // namespace mayfly::image
