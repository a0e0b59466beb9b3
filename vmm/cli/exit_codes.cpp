#include "vmm/cli/exit_codes.h"

#include "vmm/base/printable.h"

#include <cstdio>

namespace mayfly {

int exit_code_of(const Error& error) noexcept {
  switch (error.kind) {
    case ErrorKind::Kvm:
    case ErrorKind::Unsupported:
    case ErrorKind::System:
      return kExitError;
    default:
      return kExitBadConfiguration;
  }
}

int report(const Error& error, int code) {
  std::fprintf(stderr, "mayfly: %s\n", printable(error.message, std::string::npos).c_str());
  return code;
}

int print(const std::string& text, std::FILE* out) {
  return std::fputs(text.c_str(), out) == EOF || std::fflush(out) == EOF ? kExitError : 0;
}

}  // namespace mayfly
