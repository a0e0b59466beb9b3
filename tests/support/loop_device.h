#pragma once

#include "vmm/base/owned_fd.h"

#include <optional>
#include <string>

/// A block device over a file, and device nodes for it wherever they are wanted. Takes root and the loop driver.
///
///   auto disk = LoopDevice::create(scratch.file("disk"));      // nothing: this host has no loop devices to give
///   disk->make_node(scratch.file("node"));
namespace mayfly::testing {

class LoopDevice {
 public:
  /// Over all of the file at `backing`. It goes when its last user has closed it.
  [[nodiscard]] static std::optional<LoopDevice> create(const std::string& backing);

  /// Makes a device node at `path`, for its owner alone; throws where it cannot.
  void make_node(const std::string& path) const;

 private:
  explicit LoopDevice(OwnedFd fd) : fd_(std::move(fd)) {}
  OwnedFd fd_;
};

}  // namespace mayfly::testing
