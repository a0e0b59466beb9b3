#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <string>
#include <string_view>

/// A file that appears whole or not at all.
///
///   auto file = TRY(OutputFile::create(path, "--output"));
///   ... write to file.fd() ...
///   TRY(file.publish());
///
/// Until then it has no name, where the file system can do that, so that a kill leaves nothing; elsewhere its name is
/// PATH.mayfly-new.
namespace mayfly::image {

class OutputFile {
 public:
  /// `what` names the option in errors: a directory is there, nothing can be made there. `is_named`: as where files cannot be
  /// without a name.
  [[nodiscard]] static Result<OutputFile> create(const std::string& path, std::string_view what, bool is_named = false);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  [[nodiscard]] int fd() const noexcept { return file_.get(); }
  /// Puts it on stable storage and gives it its name, in place of what had it. Error: another process makes the same file.
  [[nodiscard]] Status publish();

 private:
  OutputFile(OwnedFd file, std::string path, std::string_view what, bool is_named)
      : file_(std::move(file)), path_(std::move(path)), what_(what), is_named_(is_named) {}

  /// A second process that makes the same file takes the name: it cannot tell us from one that was killed.
  [[nodiscard]] bool has_its_name() const;

  OwnedFd file_;
  std::string path_;
  std::string what_;
  bool is_named_;  // PATH.mayfly-new is this file
};

}  // namespace mayfly::image
