#pragma once

#include "vmm/base/error.h"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

/// Whether a template is as it was built: a copy may have been cut off, a disk may have lost a bit, somebody may have written to
/// it. Clones would see other memory, or other files, and nobody would know why.
namespace mayfly::image {

struct VerifyOrder {
  std::string directory;
  std::function<void(std::string_view step, std::uint64_t done, std::uint64_t total)> on_progress{};
};

struct Verified {
  std::string directory;
  std::size_t files = 0;  ///< Besides template.json.
};

/// Compares each file with its digest in template.json, and that with its own. Error: the first file that differs, with what was
/// expected, what was found and the remedy; a template of an older Mayfly that lacks digests.
[[nodiscard]] Result<Verified> verify_template(const VerifyOrder& order);

/// The text of template.json with a last field, the digest of all that is before it.
[[nodiscard]] std::string with_own_digest(std::string_view json);

}  // namespace mayfly::image
