#include "vmm/base/random.h"

#include <sys/random.h>

namespace mayfly {

Status fill_with_random(std::span<std::byte> bytes, std::string_view what) {
  // getrandom(2): up to 256 bytes come whole and uninterrupted once the host's pool is ready.
  if (::getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size())) return {};
  return fail_errno(ErrorKind::System, "cannot {}: the host gives no random numbers", what);
}

}  // namespace mayfly
