#pragma once

#include "vmm/base/error.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// Whom a name means in /etc/passwd and /etc/group, of an image or of a guest.
namespace mayfly::image {

struct RunUser {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::vector<std::uint32_t> groups{};  ///< Further ones, in order.
  std::string home = "/";
};

/// USER, UID, USER:GROUP and so on. Errors: a name that the files do not have.
[[nodiscard]] Result<RunUser> find_user(std::string_view text, std::string_view passwd, std::string_view group);

}  // namespace mayfly::image
