#pragma once

#include "rootfs-tools/image/base.h"
#include "rootfs-tools/template/build.h"
#include "rootfs-tools/template/verify.h"
#include "vmm/base/error.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/// The command line of `mayfly-template`.
namespace mayfly::image {

/// The answer to --help or --version.
struct PrintText {
  std::string text;
};

using Invocation = std::variant<BaseOrder, BuildOrder, VerifyOrder, PrintText>;

/// `programs`: where the guest's programs, the kernel and the monitor are looked for that no option names. Errors name the
/// option, its value and what would be right.
[[nodiscard]] Result<Invocation> parse_template_arguments(int argc, const char* const* argv,
                                                          const std::vector<std::string>& programs);

/// "4096", "64K", "16G": powers of 1024.
[[nodiscard]] Result<std::uint64_t> parse_bytes(std::string_view option, std::string_view text);

}  // namespace mayfly::image
