#pragma once

#include "vmm/base/error.h"

#include <stdlib.h>

#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

/// A directory of ours alone; what is in it goes with the object.
///
///   const auto directory = WorkDirectory::create("/tmp", "host-agent");   // /tmp/host-agent-a1B2c3
namespace mayfly::host_agent {

class WorkDirectory {
 public:
  [[nodiscard]] static Result<WorkDirectory> create(const std::string& parent, const std::string& name) {
    std::string path = parent + '/' + name + "-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr)
      return fail_errno(ErrorKind::System, "cannot make a directory in {}", parent);
    return WorkDirectory{std::move(path)};
  }
  WorkDirectory(WorkDirectory&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  WorkDirectory& operator=(WorkDirectory&&) = delete;
  WorkDirectory(const WorkDirectory&) = delete;
  WorkDirectory& operator=(const WorkDirectory&) = delete;
  ~WorkDirectory() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  explicit WorkDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace mayfly::host_agent
