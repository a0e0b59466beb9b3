#pragma once

#include "vmm/base/error.h"

#include <string>
#include <string_view>
#include <vector>

/// The initial RAM disk of a machine that runs an image: a cpio archive (newc) with no more than init needs. The same files
/// give the same bytes.
namespace mayfly::image {

struct InitrdFile {
  std::string_view name;  ///< Its directories come before it.
  unsigned mode = 0;      ///< With its type: S_IFDIR or S_IFREG.
  std::string_view data{};
};

/// Error: no memory.
[[nodiscard]] Result<std::string> make_initrd(const std::vector<InitrdFile>& files);

}  // namespace mayfly::image
