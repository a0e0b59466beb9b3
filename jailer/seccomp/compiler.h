#pragma once

#include "jailer/seccomp/filter_text.h"
#include "vmm/base/error.h"

#include <linux/filter.h>

#include <string>
#include <vector>

/// From text to what the kernel takes, by libseccomp. Part of the build and of its tests, not of the monitor.
namespace mayfly::seccomp {

struct CompiledFilter {
  std::string thread;
  std::vector<sock_filter> program;
};

/// One program a thread, in the text's order. What is not let through, and calls by another interface (32 bit, x32),
/// raise SIGSYS. A filter on top of another is asked together with that one: where this is shorter, its program refuses
/// what is not to be let through any more, and lets through all else. Errors: no such system call, naming its line; a
/// program that is longer than the kernel takes.
[[nodiscard]] Result<std::vector<CompiledFilter>> compile_filters(const FilterText& text);

}  // namespace mayfly::seccomp
