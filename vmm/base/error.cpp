#include "vmm/base/error.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace mayfly {

std::string errno_text(int error_number) {
  const char* description = ::strerrordesc_np(error_number);
  const char* name = ::strerrorname_np(error_number);
  if (description == nullptr || name == nullptr) return fmt::format("error number {}", error_number);
  return fmt::format("{} ({})", description, name);
}

ErrorKind kind_of_errno(int error_number, ErrorKind otherwise) noexcept {
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return ErrorKind::NotFound;
    case EACCES:
    case EPERM:
      return ErrorKind::Permission;
    default:
      return otherwise;
  }
}

void invariant_broken(const char* what, const char* file, int line) noexcept {
  std::fprintf(stderr, "mayfly: internal error at %s:%d: %s\n", file, line, what);
  std::abort();
}

}  // namespace mayfly
