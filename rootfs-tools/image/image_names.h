#pragma once

#include "vmm/base/error.h"

#include <string>
#include <string_view>

/// What images are called, and what they are for.
namespace mayfly::image {

/// "linux/amd64", or "linux/arm/v7". An empty variant is any.
struct Platform {
  std::string os;
  std::string architecture;
  std::string variant{};
};

[[nodiscard]] Result<Platform> parse_platform(std::string_view text);
[[nodiscard]] std::string to_text(const Platform& platform);
/// Whether an image of `offered` is one for `wanted`.
[[nodiscard]] bool fits(const Platform& offered, const Platform& wanted);

/// Whether two references name one image: "app" is "docker.io/library/app:latest".
[[nodiscard]] bool same_reference(std::string_view one, std::string_view other);

}  // namespace mayfly::image
