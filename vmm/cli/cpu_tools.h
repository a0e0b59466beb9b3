#pragma once

#include <cstdio>
#include <span>
#include <string>

namespace mayfly {

/// `mayfly doctor --cpu`: what this host's KVM can show guests, as a body of PUT /cpu-config; of `files`, which it has printed
/// on other hosts, what those have in common. Prints to `out` and errors to standard error; returns the process's exit code.
[[nodiscard]] int run_doctor_cpu(std::span<const std::string> files, std::FILE* out);

}  // namespace mayfly
